// What lies between two matrix products of a block, each in one pass over the rows: residual sums with their norms,
// activations, and attention over packed rows. The stream of residuals is float, all else T: bf16 or f16.
// Sums are float throughout, in an order that depends on the row alone.
//
// Products of 16 x 16 x 8 are mma.sync's: compute capability 8.0 or later. Its fragments, for lane 4 g + t: of A
// (16 x 16) rows g and g + 8, columns 2 t, 2 t + 1 and 8 more; of B (16 x 8) the same as rows, column g; of C (16 x 8) rows g and
// g + 8, columns 2 t, 2 t + 1.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;
constexpr unsigned NONE = 0xffffffffu;

// ---- two numbers at once ----

__device__ __forceinline__ float2 wide(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ __forceinline__ float2 wide(__half2 x) { return __half22float2(x); }

template <typename T> struct Two;
template <> struct Two<__nv_bfloat16> {
    using Type = __nv_bfloat162;
    static __device__ __forceinline__ Type of(float a, float b) { return __floats2bfloat162_rn(a, b); }
};
template <> struct Two<__half> {
    using Type = __half2;
    static __device__ __forceinline__ Type of(float a, float b) { return __floats2half2_rn(a, b); }
};

template <typename T> __device__ __forceinline__ unsigned packed(float a, float b) {
    typename Two<T>::Type both = Two<T>::of(a, b);
    return *reinterpret_cast<unsigned*>(&both);
}

template <typename T> __device__ __forceinline__ float2 unpacked(unsigned both) {
    return wide(*reinterpret_cast<typename Two<T>::Type*>(&both));
}

// ---- residuals and norms ----

// No norm where there is no weight; the root of the mean square where there is no bias.
struct Norm {
    const float* weight;
    const float* bias;
    float eps;
};

__device__ float total(float x, float* shared) {
    for (int distance = 16; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(NONE, x, distance);
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
    __syncthreads();
    return sum;
}

// Each thread's quads of a row stay its own, so only sums meet.
__device__ void norm_row(Norm norm, float4* row, int quads, float* shared) {
    if (!norm.weight) return;
    const float count = 4.0f * quads;
    float mean = 0.0f;
    if (norm.bias) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < quads; i += THREADS) sum += (row[i].x + row[i].y) + (row[i].z + row[i].w);
        mean = total(sum, shared) / count;
    }
    float squares = 0.0f;
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        const float x = row[i].x - mean, y = row[i].y - mean, z = row[i].z - mean, w = row[i].w - mean;
        squares += (x * x + y * y) + (z * z + w * w);
    }
    const float scale = rsqrtf(total(squares, shared) / count + norm.eps);
    const float4* weights = reinterpret_cast<const float4*>(norm.weight);
    const float4* biases = reinterpret_cast<const float4*>(norm.bias);
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        const float4 weight = weights[i];
        const float4 bias = norm.bias ? biases[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        row[i].x = (row[i].x - mean) * scale * weight.x + bias.x;
        row[i].y = (row[i].y - mean) * scale * weight.y + bias.y;
        row[i].z = (row[i].z - mean) * scale * weight.z + bias.z;
        row[i].w = (row[i].w - mean) * scale * weight.w + bias.w;
    }
}

__device__ __forceinline__ void add(float4& a, float4 b) {
    a.x += b.x;
    a.y += b.y;
    a.z += b.z;
    a.w += b.w;
}

// stream = sum(branch(out) + residual), and from row `first` on plus the prompt's rows, over and over;
// entering = next(stream) where it is asked for. A block a row; `hidden` is a multiple of 4.
template <typename T>
__device__ void join(const T* out, const float* residual, Norm branch, Norm sum, Norm next, const float* prompt,
                     unsigned first, unsigned count, float* stream, T* entering, int hidden) {
    extern __shared__ float4 row[];
    __shared__ float shared[WARPS];
    const int quads = hidden / 4;
    const long start = static_cast<long>(blockIdx.x) * quads;
    const uint2* outs = reinterpret_cast<const uint2*>(out) + start;
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        const uint2 pairs = outs[i];
        const float2 low = unpacked<T>(pairs.x), high = unpacked<T>(pairs.y);
        row[i] = make_float4(low.x, low.y, high.x, high.y);
    }
    norm_row(branch, row, quads, shared);
    const float4* residuals = reinterpret_cast<const float4*>(residual) + start;
    for (int i = threadIdx.x; i < quads; i += THREADS) add(row[i], residuals[i]);
    norm_row(sum, row, quads, shared);
    if (prompt && blockIdx.x >= first) {
        const long of = static_cast<long>((blockIdx.x - first) % count) * quads;
        const float4* prompts = reinterpret_cast<const float4*>(prompt) + of;
        for (int i = threadIdx.x; i < quads; i += THREADS) add(row[i], prompts[i]);
    }
    float4* streams = reinterpret_cast<float4*>(stream) + start;
    for (int i = threadIdx.x; i < quads; i += THREADS) streams[i] = row[i];
    if (!entering) return;
    norm_row(next, row, quads, shared);
    uint2* enterings = reinterpret_cast<uint2*>(entering) + start;
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        enterings[i] = make_uint2(packed<T>(row[i].x, row[i].y), packed<T>(row[i].z, row[i].w));
    }
}

// The prompt's rows of all candidates where they enter: stream = rows + prompt, where every candidate begins with the same
// `each` rows and adds its own `n` to them, over and over; entering = next(stream). A block a row.
template <typename T>
__device__ void enter(const float* rows, const float* prompts, unsigned each, unsigned n, Norm next, float* stream,
                      T* entering, int hidden) {
    extern __shared__ float4 row[];
    __shared__ float shared[WARPS];
    const int quads = hidden / 4;
    const unsigned candidate = blockIdx.x / each, of_rows = blockIdx.x % each;
    const long to = static_cast<long>(blockIdx.x) * quads;
    const float4* from = reinterpret_cast<const float4*>(rows) + static_cast<long>(of_rows) * quads;
    const float4* added = reinterpret_cast<const float4*>(prompts) + static_cast<long>(candidate * n + of_rows % n) * quads;
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        row[i] = from[i];
        add(row[i], added[i]);
        reinterpret_cast<float4*>(stream)[to + i] = row[i];
    }
    norm_row(next, row, quads, shared);
    uint2* enterings = reinterpret_cast<uint2*>(entering) + to;
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        enterings[i] = make_uint2(packed<T>(row[i].x, row[i].y), packed<T>(row[i].z, row[i].w));
    }
}

// ---- activations ----

// By their places in Activation: gelu by erf, gelu by tanh, relu, silu.
__device__ __forceinline__ float activated(float x, unsigned kind) {
    switch (kind) {
        case 0: return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
        case 1: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
        case 2: return fmaxf(x, 0.0f);
        default: return x / (1.0f + expf(-x));
    }
}

// y = act(x), or act(gate) * up where a row of x is both; eight numbers a thread, `width` is a multiple of 8.
template <typename T>
__device__ void activate(const T* x, T* y, unsigned long count, int width, unsigned gated, unsigned kind) {
    const unsigned long eight = static_cast<unsigned long>(blockIdx.x) * THREADS + threadIdx.x;
    if (eight >= count) return;
    const int each = width / 8;
    const unsigned long row = eight / each, column = eight % each;
    const uint4* rows = reinterpret_cast<const uint4*>(x);
    const unsigned long from = gated ? row * 2 * each + column : eight;
    const uint4 gate = rows[from];
    const uint4 up = gated ? rows[from + each] : gate;
    const unsigned gates[4] = {gate.x, gate.y, gate.z, gate.w}, ups[4] = {up.x, up.y, up.z, up.w};
    unsigned done[4];
    for (int i = 0; i < 4; i++) {
        float2 pair = unpacked<T>(gates[i]);
        pair.x = activated(pair.x, kind);
        pair.y = activated(pair.y, kind);
        if (gated) {
            const float2 other = unpacked<T>(ups[i]);
            pair.x *= other.x;
            pair.y *= other.y;
        }
        done[i] = packed<T>(pair.x, pair.y);
    }
    reinterpret_cast<uint4*>(y)[eight] = make_uint4(done[0], done[1], done[2], done[3]);
}

// ---- attention ----

__device__ __forceinline__ void multiply(float* c, const unsigned* a, unsigned b0, unsigned b1, __nv_bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(float* c, const unsigned* a, unsigned b0, unsigned b1, __half) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two 8 x 8 matrices, transposed, from rows that the lower sixteen lanes point at.
__device__ __forceinline__ void load_transposed(unsigned& b0, unsigned& b1, const void* row) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(b0), "=r"(b1) : "r"(address));
}

__device__ __forceinline__ unsigned pair_at(const void* numbers) {
    return *reinterpret_cast<const unsigned*>(numbers);
}

__device__ __forceinline__ float of_four(float x, bool largest) { // over the four lanes that share a row
    for (int distance = 1; distance < 4; distance *= 2) {
        const float other = __shfl_xor_sync(NONE, x, distance);
        x = largest ? fmaxf(x, other) : x + other;
    }
    return x;
}

// Which rows meet, see Slots on the host's side.
struct Slots {
    const unsigned* queries; // [sequences * asking]: the query's row
    const unsigned* keys;    // [sequences * len]: the key's row
    const unsigned* leave;   // [sequences * asking]: the row to write, or NONE
    const unsigned* sights;  // [examples * asking, 2]: the keys it sees, from and up to
    const unsigned* stands;  // [examples * asking]: the query's position
    const unsigned* lengths; // [examples]: keys
    int examples, asking, len;
};

// context = softmax(cap(scale Q K^T + relative)) V, for 64 queries of one sequence and one head a block: each of four warps
// has sixteen, keys come KEYS at a time, and the softmax runs on (Dao et al. 2022, FlashAttention, algorithm 1).
template <typename T, int WIDTH, int KEYS>
__device__ void attend(const T* query, const T* key_value, Slots slots, const float* relative, int reach, int heads,
                       int groups, float scale, float cap, T* context) {
    constexpr int STRIDE = WIDTH + 8; // so that rows lie in different banks
    constexpr int CHUNKS = WIDTH / 8; // of sixteen bytes
    constexpr float LOG2E = 1.4426950408889634f;
    __shared__ __align__(16) T q[64 * STRIDE], k[KEYS * STRIDE], v[KEYS * STRIDE];
    const int tiles = (slots.asking + 63) / 64;
    const int sequence = blockIdx.x / tiles, first = blockIdx.x % tiles * 64;
    const int example = sequence % slots.examples, head = blockIdx.y, group = head / (heads / groups);
    const int asked = sequence * slots.asking, stand = example * slots.asking;
    const bool leaves = threadIdx.x < 64 && first + static_cast<int>(threadIdx.x) < slots.asking &&
                        slots.leave[asked + first + threadIdx.x] != NONE;
    if (!__syncthreads_or(leaves)) return;

    const uint4 zeros = make_uint4(0, 0, 0, 0);
    for (int i = threadIdx.x; i < 64 * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, column = i % CHUNKS * 8, slot = first + row;
        uint4 chunk = zeros;
        if (slot < slots.asking) {
            const long from = static_cast<long>(slots.queries[asked + slot]) * heads + head;
            chunk = *reinterpret_cast<const uint4*>(query + from * WIDTH + column);
        }
        *reinterpret_cast<uint4*>(&q[row * STRIDE + column]) = chunk;
    }
    __syncthreads();
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, base = threadIdx.x / 32 * 16;
    unsigned a[WIDTH / 16][4];
    for (int depth = 0; depth < WIDTH / 16; depth++) {
        const T* upper = &q[(base + g) * STRIDE + depth * 16 + 2 * t];
        const T* lower = upper + 8 * STRIDE;
        a[depth][0] = pair_at(upper);
        a[depth][1] = pair_at(lower);
        a[depth][2] = pair_at(upper + 8);
        a[depth][3] = pair_at(lower + 8);
    }
    int slot[2], from[2], upto[2], position[2];
    for (int half = 0; half < 2; half++) {
        slot[half] = first + base + g + 8 * half;
        const bool there = slot[half] < slots.asking;
        from[half] = there ? slots.sights[2 * (stand + slot[half])] : 0;
        upto[half] = there ? slots.sights[2 * (stand + slot[half]) + 1] : 0;
        position[half] = there ? slots.stands[stand + slot[half]] : 0;
    }

    float out[WIDTH / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    const int length = slots.lengths[example];
    for (int start = 0; start < length; start += KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, column = i % CHUNKS * 8, key = start + row;
            uint4 keys = zeros, values = zeros;
            if (key < length) {
                const long at = static_cast<long>(slots.keys[sequence * slots.len + key]) * 2 * groups + group;
                const T* numbers = key_value + at * WIDTH + column;
                keys = *reinterpret_cast<const uint4*>(numbers);
                values = *reinterpret_cast<const uint4*>(numbers + groups * WIDTH);
            }
            *reinterpret_cast<uint4*>(&k[row * STRIDE + column]) = keys;
            *reinterpret_cast<uint4*>(&v[row * STRIDE + column]) = values;
        }
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        for (int depth = 0; depth < WIDTH / 16; depth++) {
            for (int n = 0; n < KEYS / 8; n++) {
                const T* row = &k[(n * 8 + g) * STRIDE + depth * 16 + 2 * t];
                multiply(scores[n], a[depth], pair_at(row), pair_at(row + 8), T());
            }
        }
        float now[2] = {-INFINITY, -INFINITY};
        for (int n = 0; n < KEYS / 8; n++) {
            for (int i = 0; i < 4; i++) {
                const int key = start + n * 8 + 2 * t + i % 2, half = i / 2;
                float score = scores[n][i] * scale;
                if (relative) {
                    const int distance = min(max(key + reach - position[half], 0), 2 * reach);
                    score += relative[distance * heads + head];
                }
                if (cap > 0.0f) score = cap * tanhf(score / cap);
                score = key >= from[half] && key < upto[half] ? score * LOG2E : -INFINITY;
                scores[n][i] = score;
                now[half] = fmaxf(now[half], score);
            }
        }
        float shift[2];
        for (int half = 0; half < 2; half++) {
            const float top = fmaxf(largest[half], of_four(now[half], true));
            shift[half] = top == -INFINITY ? 0.0f : top; // nothing seen yet
            const float factor = exp2f(largest[half] - shift[half]);
            largest[half] = top;
            sum[half] *= factor;
            for (int n = 0; n < WIDTH / 8; n++) {
                out[n][2 * half] *= factor;
                out[n][2 * half + 1] *= factor;
            }
        }
        for (int n = 0; n < KEYS / 8; n++) {
            for (int i = 0; i < 4; i++) {
                scores[n][i] = exp2f(scores[n][i] - shift[i / 2]);
                sum[i / 2] += scores[n][i];
            }
        }
        for (int depth = 0; depth < KEYS / 16; depth++) {
            const float *low = scores[2 * depth], *high = scores[2 * depth + 1];
            const unsigned weights[4] = {packed<T>(low[0], low[1]), packed<T>(low[2], low[3]),
                                         packed<T>(high[0], high[1]), packed<T>(high[2], high[3])};
            for (int n = 0; n < WIDTH / 8; n++) {
                unsigned b0, b1;
                load_transposed(b0, b1, &v[(depth * 16 + lane % 16) * STRIDE + n * 8]);
                multiply(out[n], weights, b0, b1, T());
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        const float share = 1.0f / of_four(sum[half], false);
        const unsigned row = slot[half] < slots.asking ? slots.leave[asked + slot[half]] : NONE;
        if (row == NONE) continue;
        T* to = context + (static_cast<long>(row) * heads + head) * WIDTH + 2 * t;
        for (int n = 0; n < WIDTH / 8; n++) {
            *reinterpret_cast<unsigned*>(to + n * 8) =
                packed<T>(out[n][2 * half] * share, out[n][2 * half + 1] * share);
        }
    }
}

} // namespace

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) join_##NAME(                                                 \
        const T* out, const float* residual, const float* branch, const float* branch_bias, float branch_eps,          \
        const float* sum, const float* sum_bias, float sum_eps, const float* next, const float* next_bias,             \
        float next_eps, const float* prompt, unsigned first, unsigned count, float* stream, T* entering, int hidden) { \
        join<T>(out, residual, {branch, branch_bias, branch_eps}, {sum, sum_bias, sum_eps},                            \
                {next, next_bias, next_eps}, prompt, first, count, stream, entering, hidden);                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) enter_##NAME(                                                \
        const float* rows, const float* prompts, unsigned each, unsigned n, const float* next, const float* next_bias, \
        float next_eps, float* stream, T* entering, int hidden) {                                                      \
        enter<T>(rows, prompts, each, n, {next, next_bias, next_eps}, stream, entering, hidden);                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        activate_##NAME(const T* x, T* y, unsigned long count, int width, unsigned gated, unsigned kind) {             \
        activate<T>(x, y, count, width, gated, kind);                                                                  \
    }                                                                                                                  \
    ATTENTION(NAME, T, 16, 64)                                                                                         \
    ATTENTION(NAME, T, 32, 64)                                                                                         \
    ATTENTION(NAME, T, 64, 64)                                                                                         \
    ATTENTION(NAME, T, 128, 32)

#define ATTENTION(NAME, T, WIDTH, KEYS)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_##NAME##_##WIDTH(                                     \
        const T* query, const T* key_value, const unsigned* queries, const unsigned* keys, const unsigned* leave,      \
        const unsigned* sights, const unsigned* stands, const unsigned* lengths, int examples, int asking, int len,    \
        const float* relative, int reach, int heads, int groups, float scale, float cap, T* context) {                 \
        attend<T, WIDTH, KEYS>(query, key_value,                                                                       \
                               {queries, keys, leave, sights, stands, lengths, examples, asking, len}, relative,       \
                               reach, heads, groups, scale, cap, context);                                             \
    }

KERNELS(bf16, __nv_bfloat16)
KERNELS(f16, __half)
