//! AVX-512 with VNNI: 16 lanes.

use crate::cpu::vector::Vector;
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL, VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Vector for Avx512 {
    const LANES: usize = 16;
    const WIDE_CODES: bool = true;
    const MANY: bool = true;
    type F = __m512;
    type I = __m512i;
    type H = ();

    methods! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        fn store(p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
        fn load_f16(p: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        fn load_bf16(p: *const u8) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
        }
        fn store_f16(p: *mut u8, v: __m512) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
        }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn sum(v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
        fn largest(v: __m512) -> f32 { _mm512_reduce_max_ps(v) }
        fn any_above(v: __m512, x: f32) -> bool { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(v, _mm512_set1_ps(x)) != 0 }
        fn isplat(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn iload(p: *const u8) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn iload_groups(p: [*const u8; 4]) -> __m512i {
            let low = _mm256_loadu2_m128i(p[1].cast(), p[0].cast());
            let high = _mm256_loadu2_m128i(p[3].cast(), p[2].cast());
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
        fn istore(p: *mut u8, v: __m512i) { _mm512_storeu_si512(p.cast(), v) }
        fn quad(p: *const u8) -> __m512i { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        fn store_bytes(p: *mut u8, v: __m512i) { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
        fn iadd(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn isum(v: __m512i) -> i32 { _mm512_reduce_add_epi32(v) }
        fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn shl<const N: u32>(v: __m512i) -> __m512i { _mm512_slli_epi32::<N>(v) }
        fn shr<const N: u32>(v: __m512i) -> __m512i { _mm512_srli_epi32::<N>(v) }
        fn sar<const N: u32>(v: __m512i) -> __m512i { _mm512_srai_epi32::<N>(v) }
        fn to_float(v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
        fn to_int(v: __m512) -> __m512i { _mm512_cvtps_epi32(v) }
        fn as_float(v: __m512i) -> __m512 { _mm512_castsi512_ps(v) }
        fn as_int(v: __m512) -> __m512i { _mm512_castps_si512(v) }
        fn dot(acc: __m512i, codes: __m512i, acts: __m512i) -> __m512i { _mm512_dpbusd_epi32(acc, codes, acts) }
        fn spread(p: *const f32) -> __m512 { fan_out(_mm_loadu_ps(p)) }
        fn ispread(p: *const i32) -> __m512i { _mm512_castps_si512(fan_out(_mm_loadu_ps(p.cast()))) }
        fn transpose(v: [__m512i; 4]) -> [__m512i; 4] {
            let (a, b) = (_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3]));
            let (c, d) = (_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3]));
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        }
        fn float_sums(v: [__m512; 4]) -> __m512 {
            let ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1])));
            let cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3])));
            let (even, odd) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
            _mm512_add_ps(_mm512_castpd_ps(even), _mm512_castpd_ps(odd))
        }
        fn unzip(a: __m512i, b: __m512i) -> [__m512i; 2] {
            let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            [
                _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b)),
                _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b)),
            ]
        }
        fn zip(a: __m512i, b: __m512i) -> [__m512i; 2] { [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)] }
        fn octets(a: *const u8, b: *const u8) -> __m512i {
            _mm512_broadcast_i32x4(_mm_unpacklo_epi64(_mm_loadl_epi64(a.cast()), _mm_loadl_epi64(b.cast())))
        }
        fn quads(v: __m512i) -> [__m512i; 4] {
            [
                _mm512_shuffle_epi32::<0b00_00_00_00>(v),
                _mm512_shuffle_epi32::<0b01_01_01_01>(v),
                _mm512_shuffle_epi32::<0b10_10_10_10>(v),
                _mm512_shuffle_epi32::<0b11_11_11_11>(v),
            ]
        }
        fn store_groups(p: *mut u8, stride: usize, v: __m512i) {
            _mm_storeu_si128(p.cast(), _mm512_castsi512_si128(v));
            _mm_storeu_si128(p.add(stride).cast(), _mm512_extracti32x4_epi32::<1>(v));
            _mm_storeu_si128(p.add(2 * stride).cast(), _mm512_extracti32x4_epi32::<2>(v));
            _mm_storeu_si128(p.add(3 * stride).cast(), _mm512_extracti32x4_epi32::<3>(v));
        }
        fn f16_of_rows(rows: [u64; 4]) -> __m512 { groups_first(_mm512_cvtph_ps(together(rows))) }
        fn bf16_of_rows(rows: [u64; 4]) -> __m512 {
            groups_first(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(together(rows)))))
        }
        fn fold(v: __m512) -> [f32; 4] {
            let halves = _mm256_add_ps(
                _mm512_castps512_ps256(v),
                _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v))),
            );
            let mut lanes = [0.0; 4];
            let sum = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            _mm_storeu_ps(lanes.as_mut_ptr(), sum);
            lanes
        }
        fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// Each of four lanes four times.
#[inline(always)]
unsafe fn fan_out(v: __m128) -> __m512 {
    // SAFETY: AVX-512 is available by the contract of `Vector`; registers only.
    unsafe {
        let index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        _mm512_permutexvar_ps(index, _mm512_castps128_ps512(v))
    }
}

/// Four times four 16-bit numbers.
#[inline(always)]
unsafe fn together(rows: [u64; 4]) -> __m256i {
    // SAFETY: AVX2 is available by the contract of `Vector`; registers only.
    unsafe { _mm256_setr_epi64x(rows[0] as i64, rows[1] as i64, rows[2] as i64, rows[3] as i64) }
}

/// Lane `4 r + g` to lane `4 g + r`.
#[inline(always)]
unsafe fn groups_first(v: __m512) -> __m512 {
    // SAFETY: AVX-512 is available by the contract of `Vector`; registers only.
    unsafe { _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v) }
}
