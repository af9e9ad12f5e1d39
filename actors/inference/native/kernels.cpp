// Operators for bfloat16 on processors with AVX512-BF16: linear layers and attention over slots.
//
// What they promise: a row's result depends on that row alone.  Each sum is made in one order, which
// depends neither on how many rows a call has nor on how many threads share it.  So an answer has the
// same bits alone, among strangers and continued elsewhere, and rows of prompts and of answers may
// be mixed in one call.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

namespace {

using bits16 = uint16_t;  // a bfloat16 as it lies in memory

constexpr int64_t LANES = 16;  // 32-bit numbers in a register, and outputs of one panel of weights
constexpr int64_t ROWS = 12;   // most rows of one tile: 24 sums and 2 weights, of 32 registers
constexpr int64_t GROUP = 4;   // panels that stay in the cache while all rows pass by

inline __mmask16 first(int64_t n) { return n >= LANES ? 0xffff : (1u << std::max<int64_t>(n, 0)) - 1; }

inline __m512bh load_pairs(const bits16* at) { return (__m512bh)_mm512_loadu_si512(at); }

inline __m512 widened(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }

// Whole numbers up to 256 are bfloat16 numbers: nothing is rounded.
inline __m512bh load_pairs(const int8_t* at) {
  return _mm512_cvtne2ps_pbh(widened(_mm_loadu_si128((const __m128i*)at + 1)),
                             widened(_mm_loadu_si128((const __m128i*)at)));
}

// Linear layer.  Weights lie in panels of 16 outputs; in each, for every pair of inputs, the pairs
// of the 16 outputs one behind the other, so that they are read once and in order.  `W` is the type
// of a weight: bits16, or int8_t with a scale for each output.

template <class W>
struct Linear {
  const uint32_t* x;  // rows of pairs of inputs
  const W* weights;
  const float *scale, *bias;  // or null
  bits16* out;
  int64_t pairs, outputs;
};

// `M` rows from `row` on, `P` panels from `panel` on.  The last rows have their weights from the
// cache, and time to fetch those that come `ahead`.
template <class W, int M, int P>
void tile(const Linear<W>& job, int64_t row, int64_t panel, bool ahead) {
  const uint32_t* x = job.x + row * job.pairs;
  const int64_t size = job.pairs * 2 * LANES;
  const W* weights = job.weights + panel * size;
  __m512 sums[M][P];
  for (int m = 0; m < M; m++)
    for (int p = 0; p < P; p++) sums[m][p] = _mm512_setzero_ps();
  for (int64_t k = 0; k < job.pairs; k++) {
    __m512bh w[P];
    for (int p = 0; p < P; p++) w[p] = load_pairs(weights + p * size + k * 2 * LANES);
    if (ahead)
      for (int p = 0; p < P; p++)
        _mm_prefetch((const char*)(weights + (p + GROUP) * size + k * 2 * LANES), _MM_HINT_T1);
    for (int m = 0; m < M; m++) {
      __m512bh pair = (__m512bh)_mm512_set1_epi32(x[m * job.pairs + k]);
      for (int p = 0; p < P; p++) sums[m][p] = _mm512_dpbf16_ps(sums[m][p], w[p], pair);
    }
  }
  for (int p = 0; p < P; p++) {
    int64_t at = (panel + p) * LANES;
    __mmask16 there = first(job.outputs - at);
    for (int m = 0; m < M; m++) {
      __m512 sum = sums[m][p];
      if (job.scale) sum = _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(there, job.scale + at));
      if (job.bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, job.bias + at));
      _mm256_mask_storeu_epi16(job.out + (row + m) * job.outputs + at, there,
                               (__m256i)_mm512_cvtneps_pbh(sum));
    }
  }
}

// As many panels at a time as registers hold sums for; few rows would else wait for their own sums.
template <class W, int M>
void panels(const Linear<W>& job, int64_t row, int64_t begin, int64_t end, bool ahead) {
  constexpr int P = 2 * M <= ROWS ? 4 : 2;
  int64_t panel = begin;
  for (; panel + P <= end; panel += P) tile<W, M, P>(job, row, panel, ahead);
  for (; panel < end; panel++) tile<W, M, 1>(job, row, panel, ahead);
}

template <class W>
using Panels = void (*)(const Linear<W>&, int64_t, int64_t, int64_t, bool);

template <class W, size_t... M>
constexpr std::array<Panels<W>, ROWS + 1> by_rows(std::index_sequence<M...>) {
  return {nullptr, panels<W, M + 1>...};
}

template <class W>
constexpr auto BY_ROWS = by_rows<W>(std::make_index_sequence<ROWS>());

const float* numbers(const std::optional<at::Tensor>& of) {
  return of ? of->const_data_ptr<float>() : nullptr;
}

template <class W>
at::Tensor compute(const at::Tensor& x_, const at::Tensor& packed,
                   const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& bias,
                   int64_t outputs) {
  auto x = x_.contiguous();
  int64_t inputs = x.size(-1), rows = x.numel() / inputs, count = packed.size(0);
  TORCH_CHECK(packed.is_contiguous() && packed.size(1) == inputs / 2 && inputs % 2 == 0 &&
              count * LANES >= outputs && packed.element_size() == sizeof(W) &&
              x.scalar_type() == at::kBFloat16, "the weights were packed for other rows");
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  auto out = at::empty(shape, x.options());
  Linear<W> job{(const uint32_t*)x.const_data_ptr(), (const W*)packed.const_data_ptr(),
                numbers(scale), numbers(bias), (bits16*)out.data_ptr(), inputs / 2, outputs};
  int64_t tiles = (rows + ROWS - 1) / ROWS, height = (rows + tiles - 1) / std::max<int64_t>(tiles, 1);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; panel += GROUP)
      for (int64_t row = 0; row < rows; row += height)
        BY_ROWS<W>[std::min(height, rows - row)](job, row, panel, std::min(panel + GROUP, end),
                                                 row + height >= rows);
  });
  return out;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& packed,
                  const std::optional<at::Tensor>& scale, const std::optional<at::Tensor>& bias,
                  int64_t outputs) {
  return packed.scalar_type() == at::kChar ? compute<int8_t>(x, packed, scale, bias, outputs)
                                           : compute<bits16>(x, packed, scale, bias, outputs);
}

at::Tensor pack(const at::Tensor& weight) {
  int64_t outputs = weight.size(0), inputs = weight.size(1), count = (outputs + LANES - 1) / LANES;
  auto padded = at::zeros({count * LANES, inputs}, weight.options());
  padded.narrow(0, 0, outputs).copy_(weight);
  return padded.view({count, LANES, inputs / 2, 2}).permute({0, 2, 1, 3}).contiguous();
}

// Attention of one query of one head over the keys of its own answer.

// e to the power of x, for x <= 0.  Source: Cephes, expf.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.f));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.f)));
  return _mm512_scalef_ps(p, n);
}

inline __m512 widened(__m256i narrow) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

struct Query {
  const bits16 *query, *keys, *values;  // of this head, the first key seen
  int64_t count, stride, size;          // keys seen, numbers between two keys, numbers of one
  float scale, cap;
};

// Scores into `scores`, which has room for whole registers.
template <int C>
void score(const Query& q, float* scores) {
  __m512bh query[C];
  __mmask32 there[C];
  for (int c = 0; c < C; c++) {
    int64_t left = q.size - c * 2 * LANES;
    there[c] = left >= 2 * LANES ? ~0u : (1u << left) - 1;
    query[c] = (__m512bh)_mm512_maskz_loadu_epi16(there[c], q.query + c * 2 * LANES);
  }
  for (int64_t t = 0; t < q.count; t++) {
    __m512 sum = _mm512_setzero_ps();
    for (int c = 0; c < C; c++) {
      const bits16* key = q.keys + t * q.stride + c * 2 * LANES;
      sum = _mm512_dpbf16_ps(sum, query[c], (__m512bh)_mm512_maskz_loadu_epi16(there[c], key));
    }
    scores[t] = _mm512_reduce_add_ps(sum) * q.scale;
  }
  if (q.cap > 0)
    for (int64_t t = 0; t < q.count; t++) scores[t] = std::tanh(scores[t] / q.cap) * q.cap;
}

// Turns scores into weights that are still to be divided by the sum that it returns.
float weigh(float* scores, int64_t count) {
  __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity()), sum = _mm512_setzero_ps();
  for (int64_t t = 0; t < count; t += LANES)
    most = _mm512_mask_max_ps(most, first(count - t), most, _mm512_loadu_ps(scores + t));
  most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t t = 0; t < count; t += LANES) {
    __m512 behind = _mm512_sub_ps(_mm512_loadu_ps(scores + t), most);
    __m512 weight = _mm512_maskz_mov_ps(first(count - t), exponential(behind));
    _mm512_storeu_ps(scores + t, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  return _mm512_reduce_add_ps(sum);
}

template <int C>
void attend_one(const Query& q, float* scores, bits16* out) {
  score<C>(q, scores);
  __m512 share = _mm512_set1_ps(1.f / weigh(scores, q.count));
  __m512 sums[2 * C];
  for (int c = 0; c < 2 * C; c++) sums[c] = _mm512_setzero_ps();
  for (int64_t t = 0; t < q.count; t++) {
    __m512 weight = _mm512_set1_ps(scores[t]);
    for (int c = 0; c < 2 * C; c++) {
      const bits16* value = q.values + t * q.stride + c * LANES;
      __mmask16 there = first(q.size - c * LANES);
      sums[c] = _mm512_fmadd_ps(weight, widened(_mm256_maskz_loadu_epi16(there, value)), sums[c]);
    }
  }
  for (int c = 0; c < 2 * C; c++)
    _mm256_mask_storeu_epi16(out + c * LANES, first(q.size - c * LANES),
                             (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sums[c], share)));
}

using AttendOne = void (*)(const Query&, float*, bits16*);
constexpr AttendOne BY_SIZE[] = {nullptr,       attend_one<1>, attend_one<2>, attend_one<3>,
                                 attend_one<4>, attend_one<5>, attend_one<6>, attend_one<7>,
                                 attend_one<8>};

// Writes the rows' keys and values into their slots and attends; q (rows, heads, size), k and v
// (rows, kv heads, size), the caches (slots, length, kv heads, size).
at::Tensor attend(const at::Tensor& q_, const at::Tensor& k_, const at::Tensor& v_, at::Tensor& keys,
                  at::Tensor& values, const at::Tensor& slots_, const at::Tensor& positions_,
                  double scale, int64_t window, double cap) {
  auto q = q_.contiguous(), k = k_.contiguous(), v = v_.contiguous();
  auto slots = slots_.contiguous(), positions = positions_.contiguous();
  int64_t rows = q.size(0), heads = q.size(1), size = q.size(2), shared = heads / k.size(1);
  int64_t length = keys.size(1), stride = k.size(1) * size;
  TORCH_CHECK(k.size(2) == size && v.size(2) == size && size <= 8 * 2 * LANES && size % 2 == 0 &&
              q.scalar_type() == at::kBFloat16 && keys.scalar_type() == at::kBFloat16 &&
              keys.is_contiguous() && values.is_contiguous() && keys.size(2) == k.size(1) &&
              keys.size(3) == size, "the cache is of another shape");
  auto out = at::empty_like(q);
  auto cached_k = (bits16*)keys.data_ptr(), cached_v = (bits16*)values.data_ptr();
  auto slot = slots.const_data_ptr<int64_t>(), position = positions.const_data_ptr<int64_t>();
  int64_t longest = 0;
  for (int64_t row = 0; row < rows; row++) {
    TORCH_CHECK(0 <= slot[row] && slot[row] < keys.size(0) && 0 <= position[row] &&
                position[row] < length, "a row lies outside of the cache");
    int64_t at = (slot[row] * length + position[row]) * stride;
    std::memcpy(cached_k + at, (bits16*)k.data_ptr() + row * stride, stride * sizeof(bits16));
    std::memcpy(cached_v + at, (bits16*)v.data_ptr() + row * stride, stride * sizeof(bits16));
    longest = std::max(longest, position[row] + 1);
  }
  at::parallel_for(0, rows * heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(longest + LANES);
    for (int64_t i = begin; i < end; i++) {
      int64_t row = i / heads, to = position[row] + 1;
      int64_t from = window > 0 ? std::max<int64_t>(0, to - window) : 0;
      int64_t at = (slot[row] * length + from) * stride + i % heads / shared * size;
      Query one{(bits16*)q.data_ptr() + i * size, cached_k + at, cached_v + at, to - from, stride,
                size, (float)scale, (float)cap};
      BY_SIZE[(size + 2 * LANES - 1) / (2 * LANES)](one, scores.data(),
                                                   (bits16*)out.data_ptr() + i * size);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY(r3mes, library) {
  library.def("linear(Tensor x, Tensor packed, Tensor? scale, Tensor? bias, int outputs) -> "
              "Tensor");
  library.def("pack(Tensor weight) -> Tensor");
  library.def("attend(Tensor q, Tensor k, Tensor v, Tensor(a!) keys, Tensor(b!) values, "
              "Tensor slots, Tensor positions, float scale, int window, float cap) -> Tensor");
}

TORCH_LIBRARY_IMPL(r3mes, CPU, library) {
  library.impl("linear", linear);
  library.impl("pack", pack);
  library.impl("attend", attend);
}
