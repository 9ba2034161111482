// The row kernels from several threads at once, for `make sanitize`: torch's OpenMP is not instrumented, std::thread
// is. As in rows.cpp, threads share the inputs, a mask and the parameters, and each writes its own rows and its chunks'
// sums.

#include <cstdio>
#include <random>
#include <thread>

#include "row_kernels.h"

using namespace multimax;

constexpr int64_t kRows = 300, n = 197, kThreads = 4;
std::vector<float> x(kRows* n), g(kRows* n), p(kRows* n), dx(kRows* n);

// The sums of all chunks.
template <class Kernel>
std::vector<double> run(const Kernel& kernel, const RowMask& mask) {
  const Chunks chunks(kRows, n, 1, 1);
  std::vector<double> totals(Kernel::kTotals * chunks.count());
  auto work = [&](int64_t begin, int64_t end) {
    LiveEntries live_entries(mask, n);
    TensorRows<float, Kernel> rows(kernel, n);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) {
        const Live& live = live_entries(r);
        const int64_t i = r * n;
        const auto of_row = rows.forward(&x[i], n, 0, live, &p[i]);
        rows.backward(&x[i], &p[i], &g[i], n, 0, live, &dx[i]);
        rows.backward_anew(&x[i], &g[i], n, 0, live, of_row, &p[i], &dx[i]);
      }
      rows.kernel.collect(0, totals.data() + Kernel::kTotals * chunk);
    }
  };
  std::vector<std::thread> threads;
  const int64_t share = (chunks.count() + kThreads - 1) / kThreads;
  for (int64_t begin = 0; begin < chunks.count(); begin += share)
    threads.emplace_back(work, begin, std::min(chunks.count(), begin + share));
  for (std::thread& thread : threads) thread.join();
  return totals;
}

int main() {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(random);
  for (float& value : g) value = normal(random);
  std::unique_ptr<bool[]> live(new bool[4 * n]);
  for (int64_t i = 0; i < 4 * n; ++i) live[i] = random() % 3 > 0;
  const RowMask mask{live.get(), 1, {kRows / 4, 4}, {0, n}};
  SegluParameters<float> parameters{{-0.1f, 0.2f, -0.3f, 0.4f}, {0.1f, -0.1f, 0.2f, -0.05f}};
  parameters.near = nearness(parameters);

  bool same = true;
  auto run_twice = [&](const auto& kernel) { same = same && run(kernel, mask) == run(kernel, mask); };
  run_twice(MultimaxKernel<float, true, true>({parameters}));
  for (double alpha : {1.0, 1.3, 1.5, 2.0}) run_twice(EntmaxKernel<float>({alpha}, alpha == 1.3, n));
  run_twice(EvsoftmaxKernel<float>(0));
  std::printf("%lld rows by %lld threads, %s\n", (long long)kRows, (long long)kThreads,
              same ? "the same sums twice" : "DIFFERENT SUMS");
  return same ? 0 : 1;
}
