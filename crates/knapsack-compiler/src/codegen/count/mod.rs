//! What a kernel's threads do, counted by executing one of them on paper.
//!
//! The emitted source is read without its prelude, in whose place stands one that names loads and conversions
//! (`kernels/count.prelude`). One thread of one work group is then run: integers have values, so that loops turn as often as
//! they will and indices are what they will be; numbers of other kinds are only counted.
//!
//! An operation is what one scalar lane does: a vector of four counts four, in half precision as in single. A multiplication
//! with the addition of its product is one. Loads, stores, changes of type that only rename bits, and what a compiler knows
//! ahead (constants, and the indices of loops that it unrolls) cost nothing; conversions, comparisons, choices and the
//! arithmetic of indices cost as any other, a division 4 unless by a power of two, a special function 4.

mod lex;
mod parse;
mod run;

use super::{FP16_SWITCH, SUBGROUPS_SWITCH, TILES_SWITCH};
use knapsack_artifact::library::Tiles;
use lex::Macros;
use parse::{Function, Name, Parser};
use std::collections::HashMap;

const PRELUDE: &str = include_str!("../kernels/count.prelude");

/// What one thread does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadCount {
    /// All operations.
    pub operations: u64,
    /// Of them multiplications whose product is added.
    pub products: u64,
    /// Bytes read from buffers.
    pub global_bytes: u64,
    /// Bytes read from local memory.
    pub local_bytes: u64,
    /// Products of the inner loop: the innermost that is not unrolled, does nearly all products and reads packed codes or local
    /// memory. 0 where there is none.
    pub inner_products: u64,
    /// Bytes read in the inner loop, from wherever.
    pub inner_bytes: u64,
}

impl ThreadCount {
    pub(super) const fn plus(self, other: Self) -> Self {
        ThreadCount {
            operations: self.operations + other.operations,
            products: self.products + other.products,
            global_bytes: self.global_bytes + other.global_bytes,
            local_bytes: self.local_bytes + other.local_bytes,
            inner_products: self.inner_products + other.inner_products,
            inner_bytes: self.inner_bytes + other.inner_bytes,
        }
    }

    pub(super) const fn divided(self, by: u64) -> Self {
        ThreadCount {
            operations: self.operations.div_ceil(by),
            products: self.products.div_ceil(by),
            global_bytes: self.global_bytes.div_ceil(by),
            local_bytes: self.local_bytes.div_ceil(by),
            inner_products: self.inner_products.div_ceil(by),
            inner_bytes: self.inner_bytes.div_ceil(by),
        }
    }
}

/// Which thread of which call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) n: u32,
    pub(super) p: u32,
    pub(super) row: u32,
    pub(super) group: [u32; 3],
    pub(super) thread: u32,
}

/// The functions of a module, ready to be counted.
pub(super) struct Counter {
    functions: HashMap<Name, Function>,
}

impl Counter {
    /// Reads a source without its prelude, as it is built with half precision products or without, and these tiles.
    pub(super) fn new(source: &str, fp16: bool, tiles: Tiles) -> Result<Self, String> {
        let mut macros = Macros::default();
        macros.define(&format!("{FP16_SWITCH} {}", u8::from(fp16)))?;
        macros.define(&format!("{SUBGROUPS_SWITCH} 0"))?;
        macros.define(&format!("{TILES_SWITCH} {}", tiles.switch()))?;
        let condition = |tokens| {
            let expression = Parser::new(tokens).expression()?;
            run::known(&expression).map(|value| value != 0)
        };
        let mut tokens = macros.preprocess(PRELUDE, condition)?;
        tokens.extend(macros.preprocess(source, condition)?);
        Ok(Counter { functions: Parser::new(tokens).functions()? })
    }

    /// Runs a kernel's thread.
    pub(super) fn count(&self, kernel: &str, place: &Place) -> Result<ThreadCount, String> {
        run::run(&self.functions, kernel, place).map_err(|problem| format!("{kernel}: {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(body: &str) -> ThreadCount {
        let source = format!(
            "FUNCTION float twice(float x) {{ return x + x; }}\n#define SQUARE(x) ((x) * (x))\n\
             KERNEL_ void k(__global const float* a, __global float* b, const uint n) {{\n{body}\n}}\n"
        );
        let source = source.replace("KERNEL_", "__kernel __attribute__((reqd_work_group_size(64, 1, 1)))");
        let counter = Counter::new(&source, true, Tiles::Local).unwrap();
        counter.count("k", &Place { n: 5, p: 9, row: 0, group: [2, 1, 0], thread: 3 }).unwrap()
    }

    fn operations(body: &str) -> u64 {
        count(body).operations
    }

    #[test]
    fn a_product_and_its_addition_are_one() {
        let [x, y] = ["const float x = a[0];", "const float y = a[1];"];
        assert_eq!(operations(&format!("{x} {y} b[0] = x * y;")), 1);
        assert_eq!(operations(&format!("{x} {y} b[0] = x * y + x;")), 1);
        assert_eq!(operations(&format!("{x} {y} b[0] = x * y * x + y;")), 2);
        assert_eq!(operations(&format!("{x} {y} b[0] = x + y + x;")), 2);
        assert_eq!(operations(&format!("{x} float s = 0.0f; for (uint i = 0; i < n; i++) s += x * x;")), 5 + 6 + 5);
        assert_eq!(count(&format!("{x} {y} b[0] = x * y + x;")).products, 1);
        assert_eq!(operations(&format!("{x} b[0] = twice(SQUARE(x));")), 2);
    }

    #[test]
    fn vectors_count_their_lanes_and_conversions_count() {
        assert_eq!(
            operations("const float4 v = LOAD4_F32(a, 0); b[0] = HSUM(v);".replace("HSUM(v)", "v.x + v.y").as_str()),
            1
        );
        assert_eq!(operations("const float4 v = LOAD4_F32(a, 0); const float4 w = v * v;"), 4);
        assert_eq!(operations("const half4 v = TO_REAL4(LOAD4_F32(a, 0)); const half4 w = v * v + v;"), 8);
        assert_eq!(operations("const uint4 v = UINT4(n, n, n, n); const uint4 w = v & 15u;"), 4);
        assert_eq!(operations("const half4 v = TO_REAL4(AS_USHORT4(UINT2(n & 3u, n & 12u)));"), 2 + 4);
    }

    #[test]
    fn the_inner_loop_is_where_products_meet_what_they_read() {
        let body = "const float x = a[0]; LOCAL_ARRAY(float, tile, 64); float s = 0.0f;\n\
                    for (uint i = 0; i < 2; i++) { b[0] = a[1]; for (uint j = 0; j < 3; j++) { const float y = tile[j];\n\
                    UNROLL for (uint k = 0; k < 4; k++) s += x * y; } }";
        let counted = count(body);
        assert_eq!((counted.inner_products, counted.inner_bytes), (2 * 3 * 4, 2 * 3 * 4));
        assert_eq!(count("b[0] = a[0] * a[1] + a[0];").inner_products, 0);
    }

    #[test]
    fn what_is_known_ahead_is_free() {
        assert_eq!(operations("UNROLL for (uint i = 0; i < 4; i++) b[i * 2 + 1] = a[i];"), 0);
        assert_eq!(operations("b[THREAD + 3] = a[THREAD + 0];"), 0);
        assert_eq!(operations("b[THREAD * 4] = a[GROUP_X * 64 + THREAD];"), 3);
        assert_eq!(operations("const uint at = THREAD / 4 + THREAD % 3;"), 1 + 4 + 1);
        assert_eq!(operations("if (THREAD < 2) b[0] = a[0] + a[1];"), 1);
        let own = "uint own[4]; UNROLL for (uint i = 0; i < 4; i++) own[i] = i; for (uint j = 0; j < own[3]; j++) b[0] = a[j];";
        let thread = count(own);
        assert_eq!((thread.operations, thread.global_bytes), (4 + 3, 12));
    }

    #[test]
    fn what_cannot_be_counted_is_said() {
        let problem = |body: &str| {
            let source = format!("void k(__global const uint* a) {{ {body} }}");
            let counter = Counter::new(&source, true, Tiles::Local)?;
            counter.count("k", &Place { n: 1, p: 0, row: 0, group: [0; 3], thread: 0 }).map(|_| String::new())
        };
        assert!(problem("for (uint i = 0; i < a[0]; i++) b[i] = 0;").unwrap_err().contains("not known"));
        assert!(problem("for (uint i = 0; i < 1; i += 0) { }").unwrap_err().contains("does not end"));
        assert!(problem("uint x = missing;").unwrap_err().contains("missing"));
        assert!(problem("uint x = (1;").is_err());
        assert!(problem("uint x = 1 @ 2;").is_err());
    }
}
