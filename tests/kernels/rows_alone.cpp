// Tests the row kernels without torch, on other compilers and processors and for `make sanitize`: against plain loops in
// double, and from several threads at once. It uses std::thread, which the sanitizers see, unlike torch's OpenMP. As in
// rows.cpp, threads share the inputs, a mask and the parameters, and each writes its own rows and its chunks' sums.

#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <thread>

#include "row_kernels.h"

using namespace multimax;

using Vector = std::vector<double>;
using Weigh = std::function<Vector(const Vector&)>;

const double kRanges[4] = {-0.1, 0.2, -0.3, 0.4}, kTs[4] = {0.1, -0.1, 0.2, -0.05};

template <class T>
SegluParameters<T> seglu_parameters() {
  SegluParameters<T> parameters;
  std::copy(kRanges, kRanges + 4, parameters.ranges);
  std::copy(kTs, kTs + 4, parameters.ts);
  parameters.near = nearness(parameters);
  return parameters;
}

Vector normalised(Vector p) {
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& weight : p) weight /= total;
  return p;
}

Vector multimax_weights(const Vector& x) {
  Vector p;
  for (double v : x) {
    const double first = kTs[0] * std::max(kRanges[0] - v, 0.0) + kTs[1] * std::max(v - kRanges[1], 0.0);
    const double left = std::max(kRanges[2] - v, 0.0), right = std::max(v - kRanges[3], 0.0);
    p.push_back(std::exp(v + first + kTs[2] * left * left + kTs[3] * right * right));
  }
  return normalised(p);
}

// Bisects for tau in p = relu((alpha - 1) x - tau)^(1 / (alpha - 1)).
Weigh entmax_weights(double alpha) {
  return [d = alpha - 1](const Vector& x) {
    double above = d * *std::max_element(x.begin(), x.end()), below = above - 1;
    Vector p(x.size());
    for (int step = 0; step < 100; ++step) {
      const double tau = (below + above) / 2;
      for (size_t i = 0; i < x.size(); ++i) p[i] = std::pow(std::max(d * x[i] - tau, 0.0), 1 / d);
      (std::accumulate(p.begin(), p.end(), 0.0) > 1 ? below : above) = tau;
    }
    return normalised(p);
  };
}

Vector evsoftmax_weights(const Vector& x) {
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / x.size();
  Vector p;
  for (double v : x) p.push_back(v >= mean ? std::exp(v) : 0);
  return normalised(p);
}

// The largest error of the weights against `weigh`, and of the gradients against its central differences.
template <class T, class Kernel>
double error(const Kernel& kernel, const Weigh& weigh) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  double worst = 0;
  for (int64_t n = 1; n < 40; ++n) {
    TensorRows<T, Kernel> rows(kernel, n);
    std::vector<T> x(n), g(n), p(n), dx(n), p_anew(n), dx_anew(n);
    for (T& v : x) v = static_cast<T>(normal(random));
    for (T& v : g) v = static_cast<T>(normal(random));
    const Live all{0, n, nullptr};
    const auto of_row = rows.forward(x.data(), n, 0, all, p.data());
    rows.backward(x.data(), p.data(), g.data(), n, 0, all, dx.data());
    rows.backward_anew(x.data(), g.data(), n, 0, all, of_row, p_anew.data(), dx_anew.data());
    const Vector scores(x.begin(), x.end()), right = weigh(scores);
    for (int64_t i = 0; i < n; ++i) {
      const double step = 1e-6;
      Vector more = scores, less = scores;
      more[i] += step, less[i] -= step;
      const Vector up = weigh(more), down = weigh(less);
      double slope = 0;
      for (int64_t j = 0; j < n; ++j) slope += g[j] * (up[j] - down[j]) / (2 * step);
      for (T weight : {p[i], p_anew[i]}) worst = std::max(worst, std::abs(weight - right[i]));
      for (T found : {dx[i], dx_anew[i]}) worst = std::max(worst, std::abs(found - slope));
    }
  }
  return worst;
}

constexpr int64_t kRows = 300, kEntries = 197, kThreads = 4;

// The sums of all chunks, computed by several threads.
template <class Kernel>
Vector run(const Kernel& kernel) {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kEntries), g(x.size()), p(x.size()), dx(x.size());
  for (float& value : x) value = normal(random);
  for (float& value : g) value = normal(random);
  std::unique_ptr<bool[]> live(new bool[4 * kEntries]);
  for (int64_t i = 0; i < 4 * kEntries; ++i) live[i] = random() % 3 > 0;
  const RowMask mask{live.get(), 1, {kRows / 4, 4}, {0, kEntries}};
  const Chunks chunks(kRows, kEntries, 1, 1);
  Vector totals(Kernel::kTotals * chunks.count());
  auto work = [&](int64_t begin, int64_t end) {
    LiveEntries live_entries(mask, kEntries);
    TensorRows<float, Kernel> rows(kernel, kEntries);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      for (int64_t r = chunks.begin(chunk); r < chunks.end(chunk); ++r) {
        const Live& of_row = live_entries(r);
        const int64_t i = r * kEntries;
        const auto statistics = rows.forward(&x[i], kEntries, 0, of_row, &p[i]);
        rows.backward(&x[i], &p[i], &g[i], kEntries, 0, of_row, &dx[i]);
        rows.backward_anew(&x[i], &g[i], kEntries, 0, of_row, statistics, &p[i], &dx[i]);
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

bool all_right = true;

template <template <class> class Kernel, class... Arguments>
void check(const char* name, const Weigh& weigh, const Arguments&... arguments) {
  const Kernel<float> kernel(arguments...);
  const double in_float = error<float>(kernel, weigh), in_double = error<double>(Kernel<double>(arguments...), weigh);
  const bool same = run(kernel) == run(kernel), is_right = in_float < 1e-5 && in_double < 1e-8 && same;
  std::printf("%-10s off by %.1e in float, %.1e in double; threads get %s sums twice%s\n", name, in_float, in_double,
              same ? "the same" : "OTHER", is_right ? "" : ": FAILED");
  all_right = all_right && is_right;
}

template <class T>
struct Multimax : MultimaxKernel<T, true, true> {
  Multimax() : MultimaxKernel<T, true, true>({seglu_parameters<T>()}) {}
};

int main() {
  check<Multimax>("multimax", multimax_weights);
  check<EntmaxKernel>("sparsemax", entmax_weights(2), Vector{2}, false, kEntries);
  check<EntmaxKernel>("1.5-entmax", entmax_weights(1.5), Vector{1.5}, false, kEntries);
  check<EntmaxKernel>("1.3-entmax", entmax_weights(1.3), Vector{1.3}, false, kEntries);
  check<EntmaxKernel>("learned", entmax_weights(1.3), Vector{1.3}, true, kEntries);
  check<EvsoftmaxKernel>("ev-softmax", evsoftmax_weights, 0.0);
  return all_right ? 0 : 1;
}
