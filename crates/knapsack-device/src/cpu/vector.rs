//! The narrow vector interface that every routine of the CPU device is written over, once.
//!
//! A vector has [`Vector::LANES`] lanes of 32 bits. The same register is seen as floats, integers, or four bytes a lane. Every
//! method is `unsafe` for one common reason: the instruction set must be there. Routines are entered only through the function
//! table of a detected instruction set (see `super::table`), whose `#[target_feature]` wrappers inline them.

use super::linear::finish::{self, Part};
use super::task::Linear;
use half::{bf16, f16};

/// Most lanes of any vector of this processor: sizes stack buffers.
pub(crate) const MAX_LANES: usize = if cfg!(target_arch = "x86_64") { 16 } else { 4 };
/// Most groups of four lanes.
pub(crate) const MAX_GROUPS: usize = MAX_LANES / 4;

/// Why a method is never called.
const NOT_PAIRWISE: &str = "this instruction set does not add lanes up across vectors";

/// Vector operations of one instruction set.
///
/// # Safety
/// All methods: the instruction set is available. Methods with pointers: the stated number of elements is readable or
/// writable there; no alignment is needed.
pub(crate) trait Vector: Copy {
    /// 32-bit lanes.
    const LANES: usize;
    /// Whether [`Vector::dot`] takes any byte as a code, and not only what fits into four bits.
    const WIDE_CODES: bool = false;
    /// Whether there are 32 registers, and not 16.
    const MANY: bool = false;
    /// Whether lanes are added up faster across vectors than vectors are transposed.
    const PAIRWISE: bool = false;
    /// Whether there is [`Vector::matrix`].
    const MATRIX: bool = false;
    /// Bytes.
    const BYTES: usize = 4 * Self::LANES;
    /// Groups of four lanes: the steps of 16 bytes that one load covers. 4, 2 or 1.
    const GROUPS: usize = Self::LANES / 4;
    /// Vectors of a cache line.
    const PER_LINE: usize = 4 / Self::GROUPS;
    /// Floats.
    type F: Copy;
    /// Integers.
    type I: Copy;
    /// Twice as many float16, where products of them are added to floats.
    type H: Copy;

    /// [`finish::finish`]: of its own where its code need not be in every routine.
    #[inline(always)]
    unsafe fn finish(task: &Linear, part: Part) {
        // SAFETY: the caller's promises.
        unsafe { finish::finish::<Self>(task, part) }
    }

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Loads `LANES` floats.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Stores `LANES` floats.
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Loads `LANES` float16.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// Loads `LANES` bfloat16.
    unsafe fn load_bf16(p: *const u8) -> Self::F;
    /// Stores `LANES` floats rounded to float16.
    unsafe fn store_f16(p: *mut u8, v: Self::F);
    /// `a + b`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// Sum of the lanes.
    unsafe fn sum(v: Self::F) -> f32;
    /// Largest lane.
    unsafe fn largest(v: Self::F) -> f32;
    /// Whether a lane is above `x`.
    #[inline(always)]
    unsafe fn any_above(v: Self::F, x: f32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { Self::largest(v) > x }
    }

    /// All lanes `x`.
    unsafe fn isplat(x: i32) -> Self::I;
    /// Loads `BYTES` bytes.
    unsafe fn iload(p: *const u8) -> Self::I;
    /// Loads 16 bytes from each of the first `GROUPS` pointers: a group of four lanes each.
    unsafe fn iload_groups(p: [*const u8; 4]) -> Self::I;
    /// Stores `BYTES` bytes.
    unsafe fn istore(p: *mut u8, v: Self::I);
    /// Four bytes in every lane.
    unsafe fn quad(p: *const u8) -> Self::I;
    /// Stores the low byte of each lane: `LANES` bytes.
    unsafe fn store_bytes(p: *mut u8, v: Self::I);
    /// Lanewise sum.
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I;
    /// Sum of the lanes.
    unsafe fn isum(v: Self::I) -> i32;
    /// Bitwise and.
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// The upper four bits of each byte.
    #[inline(always)]
    unsafe fn high_nibbles(v: Self::I) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { Self::and(Self::shr::<4>(v), Self::isplat(0x0f0f_0f0f)) }
    }
    /// Lanes shifted left.
    unsafe fn shl<const N: u32>(v: Self::I) -> Self::I;
    /// Lanes shifted right, zeros in.
    unsafe fn shr<const N: u32>(v: Self::I) -> Self::I;
    /// Lanes shifted right, signs in.
    unsafe fn sar<const N: u32>(v: Self::I) -> Self::I;
    /// To float, exact below 2^24.
    unsafe fn to_float(v: Self::I) -> Self::F;
    /// To integer, nearest, ties to even.
    unsafe fn to_int(v: Self::F) -> Self::I;
    /// The bits of a float as they are.
    unsafe fn as_float(v: Self::I) -> Self::F;
    /// The bits of a float as they are.
    unsafe fn as_int(v: Self::F) -> Self::I;
    /// `acc + sum over the four bytes of a lane of codes * acts`; codes are unsigned and at most 15
    /// (see [`Vector::WIDE_CODES`]), acts signed.
    unsafe fn dot(acc: Self::I, codes: Self::I, acts: Self::I) -> Self::I;

    /// `GROUPS` floats, each in four lanes.
    unsafe fn spread(p: *const f32) -> Self::F;
    /// `GROUPS` integers, each in four lanes.
    unsafe fn ispread(p: *const i32) -> Self::I;
    /// One integer in the first lane, zeros in the others. Asked for where there is [`Vector::PAIRWISE`].
    #[inline(always)]
    unsafe fn ifirst(_p: *const i32) -> Self::I {
        unreachable!("{NOT_PAIRWISE}")
    }
    /// Loads two vectors; the pointer moves on behind them.
    #[inline(always)]
    unsafe fn iload_two(p: &mut *const u8) -> [Self::I; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let both = [Self::iload(*p), Self::iload(p.add(Self::BYTES))];
            *p = p.add(2 * Self::BYTES);
            both
        }
    }
    /// Within each group of four lanes, lane `r` of vector `c` becomes lane `c` of vector `r`.
    unsafe fn transpose(v: [Self::I; 4]) -> [Self::I; 4];
    /// Within each group of four lanes, lane `i` is the sum of the lanes of vector `i`.
    #[inline(always)]
    unsafe fn sums(v: [Self::I; 4]) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b, c, d] = Self::transpose(v);
            Self::iadd(Self::iadd(a, b), Self::iadd(c, d))
        }
    }
    /// Within each group of four lanes, lane `i` is the sum of the lanes of vector `i`: `(l0 + l2) + (l1 + l3)` where there are
    /// several groups, in any order of its own where there is one.
    unsafe fn float_sums(v: [Self::F; 4]) -> Self::F;
    /// Within each group of four lanes, `[a0, a2, b0, b2]` and `[a1, a3, b1, b3]`.
    unsafe fn unzip(a: Self::I, b: Self::I) -> [Self::I; 2];
    /// [`Vector::unzip`] of the two vectors at `p`.
    #[inline(always)]
    unsafe fn iload_unzipped(p: *const u8) -> [Self::I; 2] {
        // SAFETY: the caller's promise.
        unsafe { Self::unzip(Self::iload(p), Self::iload(p.add(Self::BYTES))) }
    }
    /// Within each group of four lanes, `[a0, b0, a1, b1]` and `[a2, b2, a3, b3]`.
    unsafe fn zip(a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Eight bytes of each, over and over.
    unsafe fn octets(a: *const u8, b: *const u8) -> Self::I;
    /// Adds to `[a0 b0, a0 b1, a1 b0, a1 b1]`: of the halves of `codes`, eight unsigned bytes each, with those of `acts`, signed.
    #[inline(always)]
    unsafe fn matrix(_acc: Self::I, _codes: Self::I, _acts: Self::I) -> Self::I {
        unreachable!("this instruction set has no matrix products")
    }
    /// Vector `i` has lane `i` of each group of four in all of its lanes.
    unsafe fn quads(v: Self::I) -> [Self::I; 4];
    /// Stores each group of four lanes, `stride` bytes from one to the next.
    unsafe fn store_groups(p: *mut u8, stride: usize, v: Self::I);
    /// From `GROUPS` float16 in each of four rows: that of row `r` and group `g` in lane `4 g + r`.
    unsafe fn f16_of_rows(rows: [u64; 4]) -> Self::F;
    /// The same of bfloat16.
    unsafe fn bf16_of_rows(rows: [u64; 4]) -> Self::F;
    /// As [`Vector::f16_of_rows`] of four steps, one after the other, where a vector has one group: four float16 at each pointer,
    /// which moves on behind them. Asked for where there is [`Vector::PAIRWISE`].
    #[inline(always)]
    unsafe fn f16_of_four(_rows: &mut [*const u8; 4]) -> [Self::F; 4] {
        unreachable!("{NOT_PAIRWISE}")
    }
    /// As [`Vector::f16_of_four`] for bfloat16.
    #[inline(always)]
    unsafe fn bf16_of_four(_rows: &mut [*const u8; 4]) -> [Self::F; 4] {
        unreachable!("{NOT_PAIRWISE}")
    }
    /// Lane `r` of all groups of four added: `(g0 + g2) + (g1 + g3)`, `g0 + g1`, or `g0`.
    unsafe fn fold(v: Self::F) -> [f32; 4];
    /// Loads `2 * LANES` float16.
    #[inline(always)]
    unsafe fn load_halves(_p: *const u8) -> Self::H {
        unreachable!("this instruction set has no products of float16")
    }
    /// One float16 in all lanes.
    #[inline(always)]
    unsafe fn splat_half(_p: *const u8) -> Self::H {
        unreachable!("this instruction set has no products of float16")
    }
    /// `a * b + c` of the first halves of `a` and `b`; the product is exact.
    #[inline(always)]
    unsafe fn fma_lower(_a: Self::H, _b: Self::H, _c: Self::F) -> Self::F {
        unreachable!("this instruction set has no products of float16")
    }
    /// The same of the second halves.
    #[inline(always)]
    unsafe fn fma_upper(_a: Self::H, _b: Self::H, _c: Self::F) -> Self::F {
        unreachable!("this instruction set has no products of float16")
    }
    /// Hints that the cache line at `p` is read soon; `p` may be anything.
    unsafe fn prefetch(p: *const u8);
    /// [`Vector::prefetch`] `N` bytes behind `p`: a multiple of 8, below 32 KiB.
    #[inline(always)]
    unsafe fn prefetch_ahead<const N: u32>(p: *const u8) {
        // SAFETY: a hint, of any address.
        unsafe { Self::prefetch(p.wrapping_add(N as usize)) }
    }
}

/// How floats are stored in a parameter or a cache.
pub(crate) trait Stored {
    /// Bytes of one.
    const SIZE: usize;
    /// Loads `LANES` of them. As [`Vector::load`].
    unsafe fn load<V: Vector>(p: *const u8) -> V::F;
    /// One of them; `SIZE` bytes are readable at `p`.
    unsafe fn one(p: *const u8) -> f32;
}

/// Marker of float16.
pub(crate) struct Half;
/// Marker of bfloat16.
pub(crate) struct Brain;
/// Marker of float32.
pub(crate) struct Single;

impl Stored for Half {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V::F {
        // SAFETY: the caller's promises are those of the method.
        unsafe { V::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the caller promises `SIZE` bytes; the read is unaligned.
        f16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32()
    }
}

impl Stored for Brain {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V::F {
        // SAFETY: the caller's promises are those of the method.
        unsafe { V::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the caller promises `SIZE` bytes; the read is unaligned.
        bf16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32()
    }
}

impl Stored for Single {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const u8) -> V::F {
        // SAFETY: the caller's promises are those of the method, which needs no alignment.
        unsafe { V::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the caller promises `SIZE` bytes; the read is unaligned.
        unsafe { p.cast::<f32>().read_unaligned() }
    }
}

/// Loads `count` floats, at most `LANES`; the lanes beyond are zero.
///
/// # Safety
/// The instruction set of `V` is available and `count` floats are readable at `p`.
#[inline(always)]
pub(crate) unsafe fn load_some<V: Vector>(p: *const f32, count: usize) -> V::F {
    if count >= V::LANES {
        // SAFETY: `LANES` floats are among the `count` of the caller's promise.
        return unsafe { V::load(p) };
    }
    let mut lanes = [0.0f32; MAX_LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(count) {
        // SAFETY: `i` is below `count`.
        *lane = unsafe { p.add(i).read_unaligned() };
    }
    // SAFETY: the buffer has the lanes of any vector.
    unsafe { V::load(lanes.as_ptr()) }
}

/// Loads `count` stored floats, at most `LANES`; the lanes beyond are zero.
///
/// # Safety
/// The instruction set of `V` is available and `count` elements are readable at `p`.
#[inline(always)]
pub(crate) unsafe fn load_stored<V: Vector, S: Stored>(p: *const u8, count: usize) -> V::F {
    if count >= V::LANES {
        // SAFETY: `LANES` elements are among the `count` of the caller's promise.
        return unsafe { S::load::<V>(p) };
    }
    let mut lanes = [0.0f32; MAX_LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(count) {
        // SAFETY: `i` is below `count`.
        *lane = unsafe { S::one(p.add(i * S::SIZE)) };
    }
    // SAFETY: the buffer has the lanes of any vector.
    unsafe { V::load(lanes.as_ptr()) }
}

/// Stores the first `count` lanes, at most `LANES`.
///
/// # Safety
/// The instruction set of `V` is available and `count` floats are writable at `p`.
#[inline(always)]
pub(crate) unsafe fn store_some<V: Vector>(p: *mut f32, v: V::F, count: usize) {
    if count >= V::LANES {
        // SAFETY: `LANES` floats are among the `count` of the caller's promise.
        return unsafe { V::store(p, v) };
    }
    let mut lanes = [0.0f32; MAX_LANES];
    // SAFETY: the buffer has the lanes of any vector.
    unsafe { V::store(lanes.as_mut_ptr(), v) };
    for (i, lane) in lanes.iter().enumerate().take(count) {
        // SAFETY: `i` is below `count`.
        unsafe { p.add(i).write_unaligned(*lane) };
    }
}
