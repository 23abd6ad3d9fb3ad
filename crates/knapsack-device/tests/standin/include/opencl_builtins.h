// A stand-in for OpenCL C's built-in functions: the part that the kernels use, for clang in its OpenCL mode without its own
// header. Address spaces are always real there. The kernels run as described in runtime.cpp.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define OVERLOADED static inline __attribute__((overloadable))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long size_t;
#define STANDIN_VECTORS(T) \
    typedef T T##2 __attribute__((ext_vector_type(2))); \
    typedef T T##4 __attribute__((ext_vector_type(4))); \
    typedef T T##8 __attribute__((ext_vector_type(8)));
STANDIN_VECTORS(float) STANDIN_VECTORS(half) STANDIN_VECTORS(uint) STANDIN_VECTORS(ushort)
typedef float unaligned_float4 __attribute__((ext_vector_type(4), aligned(4)));
typedef ushort unaligned_ushort4 __attribute__((ext_vector_type(4), aligned(2)));
typedef half unaligned_half4 __attribute__((ext_vector_type(4), aligned(2)));
typedef half unaligned_half8 __attribute__((ext_vector_type(8), aligned(2)));

void standin_barrier(uint line);
float standin_subgroup_sum(float value, uint line);
uint standin_local_id(void);
uint standin_group_id(uint axis);
uint standin_subgroup_size(void);
uint standin_subgroups(void);
float standin_exp(float);
float standin_log(float);
float standin_tanh(float);
float standin_sqrt(float);

void standin_pixel(__read_only image1d_buffer_t image, int index, uint* pixel);
OVERLOADED uint4 read_imageui(__read_only image1d_buffer_t image, int index) {
    uint pixel[4];
    standin_pixel(image, index, pixel);
    return (uint4)(pixel[0], pixel[1], pixel[2], pixel[3]);
}

#define CLK_LOCAL_MEM_FENCE 1
#define barrier(flags) standin_barrier(__LINE__)
#define sub_group_reduce_add(value) standin_subgroup_sum(value, __LINE__)
#define get_sub_group_local_id() (standin_local_id() % standin_subgroup_size())
#define get_sub_group_id() (standin_local_id() / standin_subgroup_size())
#define get_num_sub_groups() standin_subgroups()
#define get_local_id(axis) ((size_t)standin_local_id())
#define get_group_id(axis) ((size_t)standin_group_id(axis))

#define as_float(v) __builtin_astype(v, float)
#define as_ushort4(v) __builtin_astype(v, ushort4)
#define as_float4(v) __builtin_astype(v, float4)
#define convert_float4(v) __builtin_convertvector(v, float4)
#define convert_half4(v) __builtin_convertvector(v, half4)
#define convert_uint4(v) __builtin_convertvector(v, uint4)

#define exp(x) standin_exp(x)
#define log(x) standin_log(x)
#define tanh(x) standin_tanh(x)
#define rsqrt(x) (1.0f / standin_sqrt(x))
OVERLOADED float fabs(float x) { return x < 0.0f ? -x : x; }
OVERLOADED float max(float a, float b) { return a > b ? a : b; }
OVERLOADED float4 fabs(float4 x) { return (float4)(fabs(x.x), fabs(x.y), fabs(x.z), fabs(x.w)); }
OVERLOADED float4 max(float4 a, float4 b) {
    return (float4)(max(a.x, b.x), max(a.y, b.y), max(a.z, b.z), max(a.w, b.w));
}
OVERLOADED uint min(uint a, uint b) { return a < b ? a : b; }
OVERLOADED float clamp(float v, float low, float high) { return v < low ? low : (v > high ? high : v); }
OVERLOADED float dot(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

OVERLOADED float4 vload4(size_t i, const __global float* p) { return *(const __global unaligned_float4*)(p + 4 * i); }
OVERLOADED ushort4 vload4(size_t i, const __global ushort* p) { return *(const __global unaligned_ushort4*)(p + 4 * i); }
OVERLOADED void vstore4(float4 v, size_t i, __global float* p) { *(__global unaligned_float4*)(p + 4 * i) = v; }
OVERLOADED float vload_half(size_t i, const __global half* p) { return (float)p[i]; }
OVERLOADED float4 vload_half4(size_t i, const __global half* p) {
    return __builtin_convertvector(*(const __global unaligned_half4*)(p + 4 * i), float4);
}
OVERLOADED float8 vload_half8(size_t i, const __global half* p) {
    return __builtin_convertvector(*(const __global unaligned_half8*)(p + 8 * i), float8);
}
OVERLOADED void vstore_half(float v, size_t i, __global half* p) { p[i] = (half)v; }
#pragma OPENCL EXTENSION cl_khr_fp16 : disable
