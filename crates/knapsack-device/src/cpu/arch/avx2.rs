//! AVX2 with FMA and F16C, with or without AVX-VNNI: 8 lanes.

use crate::cpu::vector::Vector;
use std::arch::x86_64::*;

/// AVX2, FMA, F16C; dot products by `maddubs` and `madd`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// The same with the VEX-coded VNNI instructions.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

/// Unsigned times signed bytes, summed by fours: no saturation, since codes are at most 15.
#[inline(always)]
unsafe fn dot_by_pairs(acc: __m256i, codes: __m256i, acts: __m256i) -> __m256i {
    // SAFETY: AVX2 is available by the contract of `Vector`; registers only.
    unsafe {
        let pairs = _mm256_maddubs_epi16(codes, acts);
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// Each of the two low lanes four times.
#[inline(always)]
unsafe fn fan_out(v: __m128) -> __m256 {
    // SAFETY: AVX2 is available by the contract of `Vector`; registers only.
    unsafe { _mm256_permutevar8x32_ps(_mm256_castps128_ps256(v), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)) }
}

/// Four times two 16-bit numbers.
#[inline(always)]
unsafe fn together(rows: [u64; 4]) -> __m128i {
    // SAFETY: AVX2 is available by the contract of `Vector`; registers only.
    unsafe { _mm_setr_epi32(rows[0] as i32, rows[1] as i32, rows[2] as i32, rows[3] as i32) }
}

/// Lane `2 r + g` to lane `4 g + r`.
#[inline(always)]
unsafe fn groups_first(v: __m256) -> __m256 {
    // SAFETY: AVX2 is available by the contract of `Vector`; registers only.
    unsafe { _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)) }
}

macro_rules! implement {
    ($name:ident, $dot:path, $wide:literal) => {
        impl Vector for $name {
            const LANES: usize = 8;
            const WIDE_CODES: bool = $wide;
            type F = __m256;
            type I = __m256i;
            type H = ();

            methods! {
                fn splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
                fn load(p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
                fn store(p: *mut f32, v: __m256) { _mm256_storeu_ps(p, v) }
                fn load_f16(p: *const u8) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
                fn load_bf16(p: *const u8) -> __m256 {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
                }
                fn store_f16(p: *mut u8, v: __m256) {
                    _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
                }
                fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
                fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
                fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
                fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
                fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
                fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
                fn min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
                fn sum(v: __m256) -> f32 {
                    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
                }
                fn largest(v: __m256) -> f32 {
                    let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
                }
                fn any_above(v: __m256, x: f32) -> bool {
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(v, _mm256_set1_ps(x))) != 0
                }
                fn isplat(x: i32) -> __m256i { _mm256_set1_epi32(x) }
                fn iload(p: *const u8) -> __m256i { _mm256_loadu_si256(p.cast()) }
                fn iload_groups(p: [*const u8; 4]) -> __m256i { _mm256_loadu2_m128i(p[1].cast(), p[0].cast()) }
                fn istore(p: *mut u8, v: __m256i) { _mm256_storeu_si256(p.cast(), v) }
                fn quad(p: *const u8) -> __m256i { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
                fn store_bytes(p: *mut u8, v: __m256i) {
                    let low = _mm256_setr_epi8(
                        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1,
                        -1, -1, -1, -1, -1, -1, -1,
                    );
                    let packed = _mm256_shuffle_epi8(v, low);
                    let first = _mm_cvtsi128_si32(_mm256_castsi256_si128(packed));
                    let second = _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(packed));
                    p.cast::<[i32; 2]>().write_unaligned([first, second]);
                }
                fn iadd(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
                fn isum(v: __m256i) -> i32 {
                    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
                    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
                }
                fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
                fn or(a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
                fn shl<const N: u32>(v: __m256i) -> __m256i { _mm256_sll_epi32(v, _mm_cvtsi32_si128(N as i32)) }
                fn shr<const N: u32>(v: __m256i) -> __m256i { _mm256_srl_epi32(v, _mm_cvtsi32_si128(N as i32)) }
                fn sar<const N: u32>(v: __m256i) -> __m256i { _mm256_sra_epi32(v, _mm_cvtsi32_si128(N as i32)) }
                fn to_float(v: __m256i) -> __m256 { _mm256_cvtepi32_ps(v) }
                fn to_int(v: __m256) -> __m256i { _mm256_cvtps_epi32(v) }
                fn as_float(v: __m256i) -> __m256 { _mm256_castsi256_ps(v) }
                fn as_int(v: __m256) -> __m256i { _mm256_castps_si256(v) }
                fn dot(acc: __m256i, codes: __m256i, acts: __m256i) -> __m256i { $dot(acc, codes, acts) }
                fn spread(p: *const f32) -> __m256 { fan_out(_mm_castsi128_ps(_mm_loadl_epi64(p.cast()))) }
                fn ispread(p: *const i32) -> __m256i {
                    _mm256_castps_si256(fan_out(_mm_castsi128_ps(_mm_loadl_epi64(p.cast()))))
                }
                fn transpose(v: [__m256i; 4]) -> [__m256i; 4] {
                    let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
                    let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
                    [
                        _mm256_unpacklo_epi64(a, b),
                        _mm256_unpackhi_epi64(a, b),
                        _mm256_unpacklo_epi64(c, d),
                        _mm256_unpackhi_epi64(c, d),
                    ]
                }
                fn float_sums(v: [__m256; 4]) -> __m256 {
                    let (a, b) = (_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
                    let (c, d) = (_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
                    let (ab, cd) = (_mm256_castps_pd(_mm256_add_ps(a, b)), _mm256_castps_pd(_mm256_add_ps(c, d)));
                    let (even, odd) = (_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
                    _mm256_add_ps(_mm256_castpd_ps(even), _mm256_castpd_ps(odd))
                }
                fn unzip(a: __m256i, b: __m256i) -> [__m256i; 2] {
                    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
                    [
                        _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)),
                        _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)),
                    ]
                }
                fn zip(a: __m256i, b: __m256i) -> [__m256i; 2] {
                    [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
                }
                fn octets(a: *const u8, b: *const u8) -> __m256i {
                    _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(_mm_loadl_epi64(a.cast()), _mm_loadl_epi64(b.cast())))
                }
                fn quads(v: __m256i) -> [__m256i; 4] {
                    [
                        _mm256_shuffle_epi32::<0b00_00_00_00>(v),
                        _mm256_shuffle_epi32::<0b01_01_01_01>(v),
                        _mm256_shuffle_epi32::<0b10_10_10_10>(v),
                        _mm256_shuffle_epi32::<0b11_11_11_11>(v),
                    ]
                }
                fn store_groups(p: *mut u8, stride: usize, v: __m256i) {
                    _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(v));
                    _mm_storeu_si128(p.add(stride).cast(), _mm256_extracti128_si256::<1>(v));
                }
                fn f16_of_rows(rows: [u64; 4]) -> __m256 { groups_first(_mm256_cvtph_ps(together(rows))) }
                fn bf16_of_rows(rows: [u64; 4]) -> __m256 {
                    let wide = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(together(rows)));
                    groups_first(_mm256_castsi256_ps(wide))
                }
                fn fold(v: __m256) -> [f32; 4] {
                    let mut lanes = [0.0; 4];
                    let sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    _mm_storeu_ps(lanes.as_mut_ptr(), sum);
                    lanes
                }
                fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
            }
        }
    };
}

implement!(Avx2, dot_by_pairs, false);
implement!(AvxVnni, _mm256_dpbusd_avx_epi32, true);
