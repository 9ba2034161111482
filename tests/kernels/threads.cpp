// The row kernels from several threads at once, for `make sanitize`: torch's OpenMP is not instrumented, std::thread
// is. As in rows.cpp, threads share the inputs, a mask and the parameters, and each writes its own rows and its chunks'
// sums.

#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>

#include "entmax_rows.h"
#include "multimax_rows.h"
#include "rows.h"

using namespace multimax;

int main() {
  constexpr int64_t kRows = 300, n = 197, kThreads = 4;
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * n), g(kRows * n), p(kRows * n), dx(kRows * n), m(kRows), s(kRows);
  for (float& value : x) value = normal(random);
  for (float& value : g) value = normal(random);
  std::unique_ptr<bool[]> live(new bool[4 * n]);
  for (int64_t i = 0; i < 4 * n; ++i) live[i] = random() % 3 > 0;
  const RowMask mask{live.get(), 1, {kRows / 4, 4}, {0, n}};
  SegluParameters<float> parameters{{-0.1f, 0.2f, -0.3f, 0.4f}, {0.1f, -0.1f, 0.2f, -0.05f}};
  parameters.near = nearness(parameters);
  const Chunks chunks(kRows, n, 1, 1);

  std::vector<std::vector<double>> totals(2, std::vector<double>(8 * chunks.count()));
  for (auto& of_run : totals) {
    auto work = [&](int64_t begin, int64_t end) {
      LiveEntries live_entries(mask, n);
      Scratch<float> of_x(n), of_g(n), of_p(n), of_dx(n);
      std::vector<float> scratch(3 * whole_vectors<float>(n));
      SegluSums<float> sums;
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) {
          const Live& entries = live_entries(r);
          if (entries.count == 0) continue;
          const Row<float> weights = of_p.destination(&p[r * n], entries);
          const Row<float> slopes = of_dx.destination(&dx[r * n], entries);
          const Row<const float> in = of_x.fetch(&x[r * n], entries);
          multimax_forward_row<float, true, true>(in, entries.count, parameters, weights, m[r], s[r]);
          const Row<const float> incoming = of_g.fetch(&g[r * n], entries);
          multimax_backward_row<float, true, true>(in, incoming, nullptr, entries.count, parameters, m[r], s[r], slopes,
                                                   sums);
          const int64_t count = entries.count;
          entmax_forward_row(in, count, SparsemaxForm<float>{}, scratch.data(), weights);
          entmax_forward_row(in, count, Entmax15Form<float>{}, scratch.data(), weights);
          evsoftmax_forward_row(in, count, 0.0f, weights);
          entmax_forward_row(in, count, AlphaEntmaxForm<float>(0.3f), scratch.data(), weights);
          alpha_entmax_backward_row(Row<const float>{weights.data}, incoming, count, 0.3f, scratch.data(), slopes);
          deliver(weights, entries, n, &p[r * n]);
          deliver(slopes, entries, n, &dx[r * n]);
        }
        collect(sums, parameters, &of_run[8 * chunk]);
      }
    };
    std::vector<std::thread> threads;
    const int64_t share = (chunks.count() + kThreads - 1) / kThreads;
    for (int64_t begin = 0; begin < chunks.count(); begin += share)
      threads.emplace_back(work, begin, std::min(chunks.count(), begin + share));
    for (std::thread& thread : threads) thread.join();
  }
  const bool same = totals[0] == totals[1];
  std::printf("%lld rows by %lld threads, %s\n", (long long)kRows, (long long)kThreads,
              same ? "the same sums twice" : "DIFFERENT SUMS");
  return same ? 0 : 1;
}
