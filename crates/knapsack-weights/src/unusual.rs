//! Values that are converted as the reference does it, but that nobody can mean: NaN, and what becomes infinite because the
//! model's element type does not reach so far.

use crate::safetensors_header::SourceDType;
use knapsack_tensor::DType;

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unusual {
    pub(crate) nan: u64,
    /// Infinite when rounded.
    pub(crate) infinite: u64,
}

impl std::ops::AddAssign for Unusual {
    fn add_assign(&mut self, other: Self) {
        self.nan += other.nan;
        self.infinite += other.infinite;
    }
}

impl Unusual {
    /// Counts in the elements of a checkpoint that are converted to a model of `model`.
    pub(crate) fn count(source: &SourceDType, model: DType, bytes: &[u8]) -> Self {
        // Magnitudes compare as integers. The smallest that rounds to infinity: 65520 for float16; float32 models are stored as
        // bfloat16.
        let halves = bytes.as_chunks::<2>().0.iter().map(|half| i16::from_le_bytes(*half) & i16::MAX);
        let words = bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word) & i32::MAX);
        match (source, model) {
            (SourceDType::F16, _) => scan(halves, 0x7c00, 0x7c00),
            (SourceDType::F32, DType::F16) => scan(words, 0x477f_f000, 0x7f80_0000),
            (SourceDType::F32, _) => scan(words, 0x7f7f_8000, 0x7f80_0000),
            (_, DType::F16) => scan(halves, 0x4780, 0x7f80),
            (_, _) => scan(halves, 0x7f80, 0x7f80),
        }
    }

    /// What to say of them; `None` when there are none.
    pub(crate) fn warning(self, tensor: &str, model: DType) -> Option<String> {
        let Unusual { nan, infinite } = self;
        let values = |count: u64, what: &str| match count {
            0 => None,
            1 => Some(format!("1 value {what}")),
            _ => Some(format!("{count} values {what}")),
        };
        let parts: Vec<_> = [
            values(nan, "not a number (NaN)"),
            values(infinite, &format!("beyond what {model} can hold, infinite from now on")),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| format!("`{tensor}` has {}", parts.join(" and ")))
    }
}

/// One pass for the largest, and only where it is out of the ordinary another one to count.
fn scan<T: Copy + Ord + Default>(magnitudes: impl Iterator<Item = T> + Clone, limit: T, infinity: T) -> Unusual {
    if magnitudes.clone().fold(T::default(), T::max) < limit {
        return Unusual::default();
    }
    let mut found = Unusual::default();
    for magnitude in magnitudes {
        found.nan += u64::from(magnitude > infinity);
        found.infinite += u64::from(magnitude >= limit && magnitude <= infinity);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Against the rounding itself.
    #[test]
    fn what_rounds_to_infinity_is_counted() {
        let values =
            [0.0f32, 1.0, -65504.0, 65519.9, 65520.0, -65536.0, 3.3e38, f32::MAX, f32::INFINITY, f32::NAN, -f32::NAN];
        let nan = 2;
        let infinite = |round: &dyn Fn(f32) -> f32| values.iter().filter(|&&x| round(x).is_infinite()).count() as u64;
        let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (to_f16, to_bf16) = (|x| f16::from_f32(x).to_f32(), |x| bf16::from_f32(x).to_f32());
        let count = |source, model, bytes: &[u8]| Unusual::count(&source, model, bytes);
        assert_eq!(count(SourceDType::F32, DType::F16, &f32s), Unusual { nan, infinite: infinite(&to_f16) });
        assert_eq!(count(SourceDType::F32, DType::BF16, &f32s), Unusual { nan, infinite: infinite(&to_bf16) });
        assert_eq!(count(SourceDType::F32, DType::F32, &f32s), Unusual { nan, infinite: infinite(&to_bf16) });
        let bf16s: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let both = |x| to_f16(to_bf16(x));
        assert_eq!(count(SourceDType::BF16, DType::F16, &bf16s), Unusual { nan, infinite: infinite(&both) });
        assert_eq!(count(SourceDType::BF16, DType::BF16, &bf16s), Unusual { nan, infinite: infinite(&to_bf16) });
        let f16s: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        assert_eq!(count(SourceDType::F16, DType::F16, &f16s), Unusual { nan, infinite: infinite(&to_f16) });
        assert_eq!(count(SourceDType::BF16, DType::F16, &bf16s[..4]), Unusual::default());
    }
}
