//! The function table of each instruction set, and which of them this processor has.

use super::task::{Attention, Conv, Delta, Embed, Linear, Rope, RopeQuery, Rows};
use super::{arch, attention, conv, delta, embed, linear, norm, quantize, rope};
use std::fmt;

/// An instruction set that the CPU device has routines for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// None in particular; not for AArch64, where NEON is always there.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-VNNI.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// AArch64.
    Neon,
    /// AArch64 with the dot-product extension.
    NeonDotprod,
    /// AArch64 with dot products, products of int8 matrices, and products of float16 with float32 sums.
    NeonI8mm,
}

impl Isa {
    /// Every one, slowest first.
    pub const ALL: [Isa; 7] =
        [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm];

    /// Those that this processor has, slowest first.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.table().is_some()).collect()
    }

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        Self::ALL.into_iter().rfind(|isa| isa.table().is_some()).unwrap_or(Isa::Scalar)
    }

    /// Its functions, where this processor has it.
    pub(super) fn table(self) -> Option<&'static Table> {
        match self {
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Scalar => Some(&scalar::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => has_avx2().then_some(&avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => (has_avx2() && is_x86_feature_detected!("avxvnni")).then_some(&avx_vnni::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => (has_avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni"))
            .then_some(&avx512_vnni::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&neon::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod").then_some(&neon_dotprod::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => (std::arch::is_aarch64_feature_detected!("dotprod")
                && std::arch::is_aarch64_feature_detected!("i8mm")
                && std::arch::is_aarch64_feature_detected!("fhm"))
            .then_some(&neon_i8mm::TABLE),
            #[allow(unreachable_patterns, reason = "the sets of other processors")]
            _ => None,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2",
            Isa::AvxVnni => "AVX-VNNI",
            Isa::Avx512Vnni => "AVX-512 VNNI",
            Isa::Neon => "NEON",
            Isa::NeonDotprod => "NEON dotprod",
            Isa::NeonI8mm => "NEON i8mm",
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The routines of one instruction set. Each takes a task and the index of a row or unit.
///
/// # Safety
/// All: the instruction set is available (a table is only handed out by [`Isa::table`]), the task's invariants hold, and the
/// row or unit exists.
pub(super) struct Table {
    pub(super) quantize: unsafe fn(&Linear, usize),
    pub(super) rows: unsafe fn(&Linear, usize),
    pub(super) columns: unsafe fn(&Linear, usize),
    pub(super) panel: unsafe fn(&Linear, usize),
    pub(super) dense: unsafe fn(&Linear, usize),
    pub(super) attention: unsafe fn(&Attention, usize),
    pub(super) rope: unsafe fn(&Rope, usize),
    pub(super) rope_query: unsafe fn(&RopeQuery, usize),
    pub(super) conv: unsafe fn(&Conv, usize),
    pub(super) delta: unsafe fn(&Delta, usize),
    pub(super) norm: unsafe fn(&Rows, usize),
    pub(super) embed: unsafe fn(&Embed, usize),
    /// Output columns of a panel, not gated and gated.
    pub(super) panel_columns: [usize; 2],
}

/// A module with the generic routines made for one instruction set, `$tokens` tokens in flight in a panel. One that adds nothing but
/// products of bytes to another is that one with a few routines of its own: of the others the code would be the same.
macro_rules! table {
    ($name:ident, $vector:ty, $tokens:literal, $features:literal, $base:ident but $($own:ident)+) => {
        mod $name {
            use super::*;
            type V = $vector;

            pub(super) static TABLE: Table =
                Table { $($own,)+ panel_columns: linear::panel::unit_columns::<V>(), ..$base::TABLE };

            $(table!(@$own $tokens, $features);)+
        }
    };
    ($name:ident, $vector:ty, $tokens:literal $(, $features:literal)?) => {
        mod $name {
            use super::*;
            type V = $vector;

            pub(super) static TABLE: Table = Table {
                quantize,
                rows,
                columns,
                panel,
                dense,
                attention,
                rope,
                rope_query,
                conv,
                delta,
                norm,
                embed,
                panel_columns: linear::panel::unit_columns::<V>(),
            };

            table!(@one quantize, Linear, quantize::quantize::<V> $(, $features)?);
            table!(@rows $tokens $(, $features)?);
            table!(@columns $tokens $(, $features)?);
            table!(@panel $tokens $(, $features)?);
            table!(@one dense, Linear, linear::dense::unit::<V> $(, $features)?);
            table!(@one attention, Attention, attention::unit::<V> $(, $features)?);
            table!(@one rope, Rope, rope::token::<V> $(, $features)?);
            table!(@one rope_query, RopeQuery, rope::query::<V> $(, $features)?);
            table!(@one conv, Conv, conv::unit::<V> $(, $features)?);
            table!(@one delta, Delta, delta::unit::<V> $(, $features)?);
            table!(@one norm, Rows, norm::row::<V> $(, $features)?);
            table!(@one embed, Embed, embed::row::<V> $(, $features)?);
        }
    };
    (@rows $tokens:literal $(, $features:literal)?) => {
        table!(@one rows, Linear, linear::rows::unit::<V> $(, $features)?);
    };
    (@columns $tokens:literal $(, $features:literal)?) => {
        table!(@one columns, Linear, linear::columns::unit::<V> $(, $features)?);
    };
    (@panel $tokens:literal $(, $features:literal)?) => {
        table!(@one panel, Linear, linear::panel::unit::<V, $tokens> $(, $features)?);
    };
    (@attention $tokens:literal, $features:literal) => {
        table!(@one halves, Attention, attention::unit_of_halves::<V>, $features);

        unsafe fn attention(task: &Attention, index: usize) {
            // SAFETY: the table's contract is the routine's.
            unsafe { if attention::in_halves(task) { halves(task, index) } else { (neon::TABLE.attention)(task, index) } }
        }
    };
    (@one $name:ident, $task:ty, $generic:expr $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name(task: &$task, index: usize) {
            // SAFETY: the table's contract is the routine's.
            unsafe { $generic(task, index) }
        }
    };
}

#[cfg(not(target_arch = "aarch64"))]
table!(scalar, arch::scalar::Scalar, 2);
#[cfg(target_arch = "x86_64")]
table!(avx2, arch::avx2::Avx2, 2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
table!(avx_vnni, arch::avx2::AvxVnni, 2, "avx2,fma,f16c,avxvnni");
#[cfg(target_arch = "x86_64")]
table!(avx512_vnni, arch::avx512::Avx512, 4, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni");
#[cfg(target_arch = "aarch64")]
table!(neon, arch::neon::Neon, 4, "neon");
#[cfg(target_arch = "aarch64")]
table!(neon_dotprod, arch::neon::NeonDot, 4, "neon,dotprod", neon but rows columns panel);
#[cfg(target_arch = "aarch64")]
table!(neon_i8mm, arch::neon::NeonMatrix, 4, "neon,dotprod,i8mm,fhm", neon_dotprod but panel attention);
