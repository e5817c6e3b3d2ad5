// Elman, LSTM, the LSTM of 1997 and GRU along a batch and back; compiled.py builds this, says what it is handed, and is its only caller.
//
// The samples of a batch have nothing to do with each other but for the sums that the weights' gradients are. So each
// thread takes a block of the samples of a seed through all times by itself, and no thread waits for another between
// two steps. What is made of a block stands together, row by row of (time, sample): gates, cell, hidden state.
//
//     Elman   δ_t = g_t ⊙ f'                              LSTM   q_t = d^c_t + g_t ⊙ o (1 - tanh² c_t) + f_{t+1} ⊙ q_{t+1}
//     GRU     δ_t = g_t ⊙ [∂h/∂r, ∂h/∂z, ∂h/∂(U_n h)]            δ_t = [q_t ⊙ ∂c/∂i, q_t ⊙ ∂c/∂f, q_t ⊙ ∂c/∂g, g_t ⊙ ∂h/∂o]
//             g_{t-1} = d_{t-1} + z_t ⊙ g_t + Uᵀ δ_t             g_{t-1} = d_{t-1} + Uᵀ δ_t
//
// g_t is the total and d_t the direct gradient of the hidden state, q_t and d^c_t those of the cell. Each sample carries a
// power of two beside the mantissas of g and q, set anew whenever they leave 2^±40 (in float64 2^±300).

#include <ATen/cpu/vec/vec.h>
#include <sys/mman.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);

struct Place {  // of a tensor whose last axis is dense; strides count numbers
  void* at;
  int64_t seed, time, batch;
};

struct Layer {
  int64_t kind, seeds, time, batch, width, hidden, blocks, threads;
  Place x, outputs;
  void *hidden_before, *cell_before;                       // (seed, batch, hidden)
  void *input, *recurrent, *input_bias, *recurrent_bias;   // as torch.nn has them, each after an axis of seeds
  void* kept;                                              // (seed, block, time, sample, row)
  void* last_cell;                                         // (seed, batch, hidden)
  int64_t* lengths;                                        // (batch,); null where all are as long as the batch
};

struct Back {  // what is not wanted, or not there, is null
  Place direct, direct_cell, of_x;
  int32_t* arriving_exponent;             // (time, batch)
  void *total, *total_cell, *node_cell;   // (state, batch, hidden): the totals, and the direct part of the cell as a node
  int32_t* exponent;                      // (state, batch); with it what is said of x keeps that of the state after
  uint8_t* present;                       // (time, batch): whether anything is said of the state
  void *of_hidden, *of_cell;              // (seed, batch, hidden), of the initial state
  void *of_input, *of_recurrent, *of_bias;  // (seed, block, width or hidden, gates), and (seed, block, δ)
};
}

namespace {

enum Kind : int64_t { TANH, RELU, LSTM, GRU, CAROUSEL };

void gemm(const char* a, const char* b, int m, int n, int k, const float* x, int xs, const float* y, int ys, float beta,
          float* z, int zs) {
  const float one = 1;
  sgemm_(a, b, &m, &n, &k, &one, x, &xs, y, &ys, &beta, z, &zs);
}

void gemm(const char* a, const char* b, int m, int n, int k, const double* x, int xs, const double* y, int ys,
          double beta, double* z, int zs) {
  const double one = 1;
  dgemm_(a, b, &m, &n, &k, &one, x, &xs, y, &ys, &beta, z, &zs);
}

template <class T>
struct Matrix {  // rows that lie ``stride`` numbers apart; or the transpose of that
  const T* at;
  int64_t stride;
  bool turned = false;
};

// out = a b + beta out, (m, k) and (k, n); BLAS has columns first, so it is asked for the transpose of all
template <class T>
void product(int64_t m, int64_t n, int64_t k, Matrix<T> a, Matrix<T> b, T* out, int64_t stride, T beta) {
  if (m && n && k) gemm(b.turned ? "T" : "N", a.turned ? "T" : "N", n, m, k, b.at, b.stride, a.at, a.stride, beta, out, stride);
}

template <class T>
using Vec = at::vec::Vectorized<T>;

template <class T, class F>
inline void across(int64_t width, F each) {
  constexpr int64_t lanes = Vec<T>::size();
  int64_t at = 0;
  for (; at + lanes <= width; at += lanes) each(at, std::integral_constant<int64_t, lanes>{});
  if (at < width) each(at, width - at);
}

template <class T>
inline Vec<T> load(const T* from, int64_t lanes) {
  return Vec<T>::loadu(from, lanes);
}

template <class T>
inline void add_to(T* place, Vec<T> value, int64_t lanes) {
  (load(place, lanes) + value).store(place, lanes);
}

template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  return Vec<T>(1) / (Vec<T>(1) + x.neg().exp());
}

template <class T>
T both(T one, T other) {  // the larger; or what is no number
  return std::isnan(other) || other > one ? other : one;
}

template <class T>
T largest(const T* row, int64_t width) {
  Vec<T> most(0);
  across<T>(width, [&](int64_t at, int64_t lanes) { most = at::vec::maximum(most, load(row + at, lanes).abs()); });
  T each[Vec<T>::size()], found = 0;
  most.store(each);
  for (T one : each) found = both(found, one);
  return found;
}

template <class T>
void shift(T* row, int64_t width, int power) {
  constexpr int most = sizeof(T) == 4 ? 120 : 1000;
  for (int left = 4; power && left; --left) {  // what is left after these is 0 or infinite
    const int part = std::clamp(power, -most, most);
    const Vec<T> factor(std::scalbn(T(1), part));
    across<T>(width, [&](int64_t at, int64_t lanes) { (load(row + at, lanes) * factor).store(row + at, lanes); });
    power -= part;
  }
}

template <class T>
struct Room {  // grows to what was asked for, and is kept by its thread
  std::unique_ptr<T[]> held;
  int64_t size = 0;
  T* of(int64_t numbers) {
    if (numbers > size) {
      held.reset(new T[numbers]);
      size = numbers;
    }
    return held.get();
  }
};

// While it lives what is computed is 0 where it would be below the normal numbers of its format. A gradient that vanishes
// is otherwise added up in numbers that take ten times as long, and beside what has not vanished comes to nothing. Such
// numbers are read as what they are: that something was said is not lost.
class Flushed {
 public:
  Flushed() : before(_mm_getcsr()) { _mm_setcsr(before | _MM_FLUSH_ZERO_ON); }
  ~Flushed() { _mm_setcsr(before); }

 private:
  const unsigned before;
};

template <class T>
struct Block {  // of the samples of a seed
  const Layer& layer;
  const Kind kind;
  const int64_t place, seed, first, samples, hidden, width;
  const bool cells;  // beside the hidden state
  const int64_t gates, deltas, row, steps;
  T *kept, *input, *recurrent, *input_bias, *recurrent_bias;

  Block(const Layer& l, int64_t at)
      : layer(l),
        kind(Kind(l.kind)),
        place(at),
        seed(at / l.blocks),
        first(at % l.blocks * l.batch / l.blocks),
        samples((at % l.blocks + 1) * l.batch / l.blocks - first),
        hidden(l.hidden),
        width(l.width),
        cells(kind == LSTM || kind == CAROUSEL),
        gates((kind == LSTM ? 4 : kind == GRU || kind == CAROUSEL ? 3 : 1) * hidden),
        deltas(kind == GRU ? gates + hidden : gates),
        row((kind == LSTM ? 6 : kind == GRU || kind == CAROUSEL ? 5 : 1) * hidden),
        steps(std::clamp<int64_t>((1 << 16) / std::max<int64_t>(1, samples * (deltas + 2 * width)), 1, std::max<int64_t>(1, l.time))) {
    kept = static_cast<T*>(l.kept) + (seed * l.batch + first) * l.time * row;
    input = static_cast<T*>(l.input) + seed * gates * width;
    recurrent = static_cast<T*>(l.recurrent) + seed * gates * hidden;
    input_bias = static_cast<T*>(l.input_bias) + seed * gates;
    recurrent_bias = static_cast<T*>(l.recurrent_bias) + seed * gates;
  }

  static T* at(const Place& place, int64_t seed, int64_t time, int64_t sample) {
    return static_cast<T*>(place.at) + seed * place.seed + time * place.time + sample * place.batch;
  }
  T* made(int64_t time, int64_t sample = 0) const { return kept + (time * samples + sample) * row; }
  T* state(int64_t time, int64_t sample = 0) const { return made(time, sample) + row - hidden; }
  T* cell(int64_t time, int64_t sample = 0) const { return made(time, sample) + deltas; }
  T* own(void* states, int64_t sample = 0) const {  // of what is (seed, batch, hidden)
    return static_cast<T*>(states) + (seed * layer.batch + first + sample) * hidden;
  }
  const T* cell_before(int64_t time, int64_t sample) const {
    return time ? cell(time - 1, sample) : own(layer.cell_before, sample);
  }
  const T* state_before(int64_t time, int64_t sample) const {
    return time ? state(time - 1, sample) : own(layer.hidden_before, sample);
  }
  Matrix<T> states_before(int64_t time) const {
    return time ? Matrix<T>{state(time - 1), row} : Matrix<T>{own(layer.hidden_before), hidden};
  }

  // the inputs of some steps, (time, sample, width)
  void pack(int64_t begin, int64_t end, T* packed) const {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t b = 0; b < samples; ++b, packed += width)
        std::memcpy(packed, at(layer.x, seed, t, first + b), width * sizeof(T));
  }

  void forward() const {
    static thread_local Room<T> room;
    T* bias = room.of(deltas + steps * samples * width);
    T* packed = bias + deltas;
    const int64_t joint = kind == GRU ? 2 * hidden : gates;  // whose sums are of inputs and states together
    for (int64_t j = 0; j < joint; ++j) bias[j] = input_bias[j] + recurrent_bias[j];
    if (kind == GRU) {
      std::memcpy(bias + joint, recurrent_bias + joint, hidden * sizeof(T));
      std::memcpy(bias + joint + hidden, input_bias + joint, hidden * sizeof(T));
    }
    for (int64_t begin = 0; begin < layer.time; begin += steps) {
      const int64_t end = std::min(begin + steps, layer.time), rows = (end - begin) * samples;
      pack(begin, end, packed);
      const Matrix<T> read{packed, width};
      for (int64_t j = 0; j < rows; ++j) std::memcpy(made(begin) + j * row, bias, deltas * sizeof(T));
      product<T>(rows, joint, width, read, {input, width, true}, made(begin), row, 1);
      if (kind == GRU)
        product<T>(rows, hidden, width, read, {input + joint * width, width, true}, made(begin) + 3 * hidden, row, 1);
      for (int64_t t = begin; t < end; ++t) {
        product<T>(samples, gates, hidden, states_before(t), {recurrent, hidden, true}, made(t), row, 1);
        for (int64_t b = 0; b < samples; ++b) {
          T* shown = at(layer.outputs, seed, t, first + b);
          if (layer.lengths && t >= layer.lengths[first + b]) {
            stay(t, b);
            std::fill_n(shown, hidden, T(0));
          } else {
            step(t, b);
            std::memcpy(shown, state(t, b), hidden * sizeof(T));
          }
        }
      }
    }
    if (cells)
      for (int64_t b = 0; b < samples; ++b)
        std::memcpy(own(layer.last_cell, b), layer.time ? cell(layer.time - 1, b) : own(layer.cell_before, b),
                    hidden * sizeof(T));
  }

  // behind the end of a sample, where nothing but zeros comes back
  void stay(int64_t t, int64_t b) const {
    std::fill_n(made(t, b), row - hidden, T(0));
    std::memcpy(state(t, b), state_before(t, b), hidden * sizeof(T));
    if (cells) std::memcpy(cell(t, b), cell_before(t, b), hidden * sizeof(T));
  }

  // the sums of a row become its gates, cell and hidden state
  void step(int64_t t, int64_t b) const {
    T *p = made(t, b), *h = state(t, b);
    const int64_t n = hidden;
    if (kind == TANH)
      across<T>(n, [&](int64_t j, int64_t lanes) { load(p + j, lanes).tanh().store(h + j, lanes); });
    else if (kind == RELU)
      across<T>(n, [&](int64_t j, int64_t lanes) { at::vec::clamp_min(load(p + j, lanes), Vec<T>(0)).store(h + j, lanes); });
    else if (kind == LSTM) {
      const T* before = cell_before(t, b);
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> entry = sigmoid(load(p + j, lanes)), forget = sigmoid(load(p + n + j, lanes));
        const Vec<T> candidate = load(p + 2 * n + j, lanes).tanh(), out = sigmoid(load(p + 3 * n + j, lanes));
        const Vec<T> cell = forget * load(before + j, lanes) + entry * candidate;
        entry.store(p + j, lanes);
        forget.store(p + n + j, lanes);
        candidate.store(p + 2 * n + j, lanes);
        out.store(p + 3 * n + j, lanes);
        cell.store(p + 4 * n + j, lanes);
        (out * cell.tanh()).store(h + j, lanes);
      });
    } else if (kind == CAROUSEL) {
      const T* before = cell_before(t, b);
      const Vec<T> one(1), two(2), four(4);
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> entry = sigmoid(load(p + j, lanes)), out = sigmoid(load(p + n + j, lanes));
        const Vec<T> offered = four * sigmoid(load(p + 2 * n + j, lanes)) - two;
        const Vec<T> cell = load(before + j, lanes) + entry * offered;
        entry.store(p + j, lanes);
        out.store(p + n + j, lanes);
        offered.store(p + 2 * n + j, lanes);
        cell.store(p + 3 * n + j, lanes);
        (out * (two * sigmoid(cell) - one)).store(h + j, lanes);
      });
    } else {
      const T* before = state_before(t, b);
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> reset = sigmoid(load(p + j, lanes)), update = sigmoid(load(p + n + j, lanes));
        const Vec<T> candidate = (load(p + 3 * n + j, lanes) + reset * load(p + 2 * n + j, lanes)).tanh();
        reset.store(p + j, lanes);
        update.store(p + n + j, lanes);
        candidate.store(p + 3 * n + j, lanes);
        (candidate + update * (load(before + j, lanes) - candidate)).store(h + j, lanes);
      });
    }
  }

  void backward(const Back& back) const {
    const Flushed flushed;
    static thread_local Room<T> room;
    static thread_local Room<int32_t> powers;
    T* total = room.of(samples * 2 * hidden + steps * samples * (deltas + 2 * width));
    T *cell_total = total + samples * hidden, *delta = cell_total + samples * hidden;
    T *packed = delta + steps * samples * deltas, *of_packed = packed + steps * samples * width;
    int32_t *power = powers.of((1 + steps) * samples), *of_step = power + samples;
    std::fill_n(total, 2 * samples * hidden, T(0));
    std::fill_n(power, samples, 0);
    if (back.of_input) {
      std::fill_n(sum(back.of_input, width * gates), width * gates, T(0));
      std::fill_n(sum(back.of_recurrent, hidden * gates), hidden * gates, T(0));
      std::fill_n(sum(back.of_bias, deltas), deltas, T(0));
    }
    for (int64_t end = layer.time; end > 0; end -= steps) {
      const int64_t begin = std::max<int64_t>(0, end - steps), rows = (end - begin) * samples;
      for (int64_t t = end - 1; t >= begin; --t) {
        T* here = delta + (t - begin) * samples * deltas;
        for (int64_t b = 0; b < samples; ++b) {
          join(back, t, b, total + b * hidden, cell_total + b * hidden, power[b]);
          of_step[(t - begin) * samples + b] = power[b];
          if (back.exponent) back.exponent[(t + 1) * layer.batch + first + b] = power[b];
          carry(back, t, b, total + b * hidden, cell_total + b * hidden, here + b * deltas);
        }
        product<T>(samples, hidden, gates, {here, deltas}, {recurrent, hidden}, total, hidden, kind == GRU ? 1 : 0);
      }
      if (!back.exponent) unscale(delta, of_step, rows);
      if (back.of_x.at) {
        const int64_t joint = kind == GRU ? 2 * hidden : gates;
        product<T>(rows, width, joint, {delta, deltas}, {input, width}, of_packed, width, 0);
        if (kind == GRU)
          product<T>(rows, width, hidden, {delta + 3 * hidden, deltas}, {input + joint * width, width}, of_packed, width, 1);
        const T* from = of_packed;
        for (int64_t t = begin; t < end; ++t)
          for (int64_t b = 0; b < samples; ++b, from += width)
            std::memcpy(at(back.of_x, seed, t, first + b), from, width * sizeof(T));
      }
      if (back.of_input) {
        if (back.exponent) unscale(delta, of_step, rows);
        weigh(back, begin, end, delta, packed);
      }
    }
    for (int64_t b = 0; b < samples; ++b) {
      T *hidden_total = total + b * hidden, *of_cell = cell_total + b * hidden;
      if (back.exponent) back.exponent[first + b] = power[b];
      keep(back.total, 0, b, hidden_total);
      keep(back.total_cell, 0, b, of_cell);
      shift(hidden_total, hidden, power[b]);
      std::memcpy(own(back.of_hidden, b), hidden_total, hidden * sizeof(T));
      if (cells) {
        shift(of_cell, hidden, power[b]);
        std::memcpy(own(back.of_cell, b), of_cell, hidden * sizeof(T));
      }
    }
  }

  T* sum(void* sums, int64_t size) const { return static_cast<T*>(sums) + place * size; }
  T* of_state(void* states, int64_t state, int64_t b) const {  // of what is (state, batch, hidden)
    return static_cast<T*>(states) + (state * layer.batch + first + b) * hidden;
  }
  void keep(void* states, int64_t state, int64_t b, const T* values) const {
    if (states) std::memcpy(of_state(states, state, b), values, hidden * sizeof(T));
  }

  void unscale(T* delta, const int32_t* power, int64_t rows) const {
    for (int64_t j = 0; j < rows; ++j) shift(delta + j * deltas, deltas, power[j]);
  }

  // adds what the δ of some steps are for the weights; turned round, as products with few inputs are faster so
  void weigh(const Back& back, int64_t begin, int64_t end, const T* delta, T* packed) const {
    const int64_t rows = (end - begin) * samples, joint = kind == GRU ? 2 * hidden : gates;
    T *of_input = sum(back.of_input, width * gates), *of_recurrent = sum(back.of_recurrent, hidden * gates);
    T* of_bias = sum(back.of_bias, deltas);
    pack(begin, end, packed);
    const Matrix<T> read{packed, width, true};
    product<T>(width, joint, rows, read, {delta, deltas}, of_input, gates, 1);
    if (kind == GRU) product<T>(width, hidden, rows, read, {delta + 3 * hidden, deltas}, of_input + joint, gates, 1);
    const int64_t initial = begin ? 0 : samples;
    if (initial)
      product<T>(hidden, gates, initial, {own(layer.hidden_before), hidden, true}, {delta, deltas}, of_recurrent, gates, 1);
    if (rows > initial)
      product<T>(hidden, gates, rows - initial, {state(begin ? begin - 1 : 0), row, true},
                 {delta + initial * deltas, deltas}, of_recurrent, gates, 1);
    for (int64_t j = 0; j < rows; ++j)
      across<T>(deltas, [&](int64_t k, int64_t lanes) { add_to(of_bias + k, load(delta + j * deltas + k, lanes), lanes); });
  }

  // what is said of the state after input t joins what was carried to it
  void join(const Back& back, int64_t t, int64_t b, T* total, T* cell_total, int32_t& power) const {
    constexpr int far = sizeof(T) == 4 ? 40 : 300;
    const int64_t place = t * layer.batch + first + b;
    const T* direct = at(back.direct, seed, t, first + b);
    const T* of_cell = cells && back.direct_cell.at ? at(back.direct_cell, seed, t, first + b) : nullptr;
    const T said = both(largest(direct, hidden), of_cell ? largest(of_cell, hidden) : T(0));
    if (back.present) back.present[place] = said != 0;
    if (back.node_cell) node(back, t, b, direct, of_cell, said != 0);
    const auto most = [&] { return both(largest(total, hidden), cells ? largest(cell_total, hidden) : T(0)); };
    const auto scale = [&](int32_t to) {
      shift(total, hidden, power - to);
      if (cells) shift(cell_total, hidden, power - to);
      power = to;
    };
    T carried = most();
    if (said != 0) {
      const int32_t given = back.arriving_exponent ? back.arriving_exponent[place] : 0;
      const bool extreme = std::isfinite(said) && std::abs(std::ilogb(said)) > far;
      if (carried == 0)
        power = given + (extreme ? std::ilogb(said) : 0);
      else if ((given != power || extreme) && std::isfinite(said) && std::isfinite(carried))
        scale(std::max(std::ilogb(said) + given, std::ilogb(carried) + power));
      add(direct, given - power, total);
      if (of_cell) add(of_cell, given - power, cell_total);
      carried = most();
    }
    if (carried > 0 && std::isfinite(carried) && std::abs(std::ilogb(carried)) > far) scale(std::ilogb(carried) + power);
  }

  // the direct part of the cell as a node, which is read by the hidden state of its own time
  void node(const Back& back, int64_t t, int64_t b, const T* direct, const T* of_cell, bool said) const {
    T* place = of_state(back.node_cell, t + 1, b);
    std::fill_n(place, hidden, T(0));
    if (!said) return;
    const T *out = made(t, b) + 3 * hidden, *after = cell(t, b);
    across<T>(hidden, [&](int64_t j, int64_t lanes) {
      const Vec<T> shown = load(after + j, lanes).tanh();
      (load(direct + j, lanes) * load(out + j, lanes) * (Vec<T>(1) - shown * shown)).store(place + j, lanes);
      if (of_cell) add_to(place + j, load(of_cell + j, lanes), lanes);
    });
  }

  void add(const T* direct, int power, T* to) const {
    if (power == 0)
      across<T>(hidden, [&](int64_t j, int64_t lanes) { add_to(to + j, load(direct + j, lanes), lanes); });
    else
      for (int64_t j = 0; j < hidden; ++j) to[j] += std::scalbn(direct[j], power);
  }

  // the δ of a step, and of what is carried to the state before it all that does not go through U
  void carry(const Back& back, int64_t t, int64_t b, T* total, T* cell_total, T* delta) const {
    const int64_t n = hidden;
    const T *p = made(t, b), *h = state(t, b);
    const Vec<T> one(1);
    keep(back.total, t + 1, b, total);
    if (kind == TANH)
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> after = load(h + j, lanes);
        (load(total + j, lanes) * (one - after * after)).store(delta + j, lanes);
      });
    else if (kind == RELU)
      for (int64_t j = 0; j < n; ++j) delta[j] = h[j] <= 0 ? T(0) : total[j];  // of NaN too, as torch
    else if (kind == LSTM) {
      const T* before = cell_before(t, b);
      T* kept_cell = back.total_cell ? of_state(back.total_cell, t + 1, b) : nullptr;
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> entry = load(p + j, lanes), forget = load(p + n + j, lanes), candidate = load(p + 2 * n + j, lanes);
        const Vec<T> out = load(p + 3 * n + j, lanes), shown = load(p + 4 * n + j, lanes).tanh();
        const Vec<T> g = load(total + j, lanes);
        const Vec<T> q = load(cell_total + j, lanes) + g * out * (one - shown * shown);
        if (kept_cell) q.store(kept_cell + j, lanes);
        (q * candidate * entry * (one - entry)).store(delta + j, lanes);
        (q * load(before + j, lanes) * forget * (one - forget)).store(delta + n + j, lanes);
        (q * entry * (one - candidate * candidate)).store(delta + 2 * n + j, lanes);
        (g * shown * out * (one - out)).store(delta + 3 * n + j, lanes);
        (q * forget).store(cell_total + j, lanes);
      });
    } else if (kind == CAROUSEL) {
      const Vec<T> half(0.5), two(2);
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> entry = load(p + j, lanes), out = load(p + n + j, lanes), offered = load(p + 2 * n + j, lanes);
        const Vec<T> shown = two * sigmoid(load(p + 3 * n + j, lanes)) - one, g = load(total + j, lanes);
        const Vec<T> q = load(cell_total + j, lanes) + g * out * half * (one - shown * shown);
        (q * offered * entry * (one - entry)).store(delta + j, lanes);
        (g * shown * out * (one - out)).store(delta + n + j, lanes);
        (q * entry * (one - half * half * offered * offered)).store(delta + 2 * n + j, lanes);
        q.store(cell_total + j, lanes);
      });
    } else {
      const T* before = state_before(t, b);
      across<T>(n, [&](int64_t j, int64_t lanes) {
        const Vec<T> reset = load(p + j, lanes), update = load(p + n + j, lanes), entered = load(p + 2 * n + j, lanes);
        const Vec<T> candidate = load(p + 3 * n + j, lanes), g = load(total + j, lanes);
        const Vec<T> rest = one - update, of_candidate = g * rest * (one - candidate * candidate);
        (of_candidate * entered * reset * (one - reset)).store(delta + j, lanes);
        (g * (load(before + j, lanes) - candidate) * update * rest).store(delta + n + j, lanes);
        (of_candidate * reset).store(delta + 2 * n + j, lanes);
        of_candidate.store(delta + 3 * n + j, lanes);
        (g * update).store(total + j, lanes);
      });
    }
  }
};

// asks for large pages, of which fewer have to be fetched when they are first written to
void in_large_pages(void* from, int64_t bytes) {
  constexpr uintptr_t page = 1 << 21;
  const uintptr_t at = reinterpret_cast<uintptr_t>(from), begin = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

template <class T>
void each_block(const Layer& layer, const Back* back) {
  if (!back) in_large_pages(layer.kept, layer.seeds * layer.batch * layer.time * Block<T>(layer, 0).row * sizeof(T));
  const int64_t blocks = layer.seeds * layer.blocks;
  // no more threads than blocks: a product may then take those that are left
#pragma omp parallel for schedule(static) num_threads(std::min(layer.threads, blocks))
  for (int64_t place = 0; place < blocks; ++place) {
    const Block<T> block(layer, place);
    if (back)
      block.backward(*back);
    else
      block.forward();
  }
}

}  // namespace

extern "C" {
// what compiled.py counts with as well: sizes of the records, and widths of a row and of its δ, kind by kind
void sizes(int64_t* found) {
  *found++ = sizeof(Layer);
  *found++ = sizeof(Back);
  Layer layer{};
  layer.hidden = layer.blocks = layer.seeds = layer.batch = 1;
  for (layer.kind = TANH; layer.kind <= CAROUSEL; ++layer.kind) {
    const Block<float> block(layer, 0);
    *found++ = block.gates;
    *found++ = block.deltas;
    *found++ = block.row;
  }
}

void forward_float32(const Layer* layer) { each_block<float>(*layer, nullptr); }
void forward_float64(const Layer* layer) { each_block<double>(*layer, nullptr); }
void backward_float32(const Layer* layer, const Back* back) { each_block<float>(*layer, back); }
void backward_float64(const Layer* layer, const Back* back) { each_block<double>(*layer, back); }
}
