//! How fast a planned model can write at most on phones whose GPU is known: what its kernels move and compute, counted, against
//! what the GPU can do.

use anyhow::Result;
use knapsack_artifact::device::Platform;
use knapsack_artifact::library::Target;
use knapsack_compiler::codegen::{Roof, TokenCost};
use knapsack_config::{DeviceProfile, Gpu};
use knapsack_package::Planned;

/// A phone with what bounds a model on it.
pub(crate) struct Speed<'a> {
    /// The phone.
    pub(crate) phone: &'a DeviceProfile,
    /// Tokens a second at most.
    pub(crate) roof: Roof,
}

/// The roofs of a model, its cache full, on those of the phones whose GPU is known.
pub(crate) fn speeds<'a>(planned: &Planned, phones: &'a [DeviceProfile]) -> Result<Vec<Speed<'a>>> {
    let mut list = Vec::new();
    for (platform, target) in [(Platform::Ios, Target::Metal), (Platform::Android, Target::OpenCl)] {
        let known = |phone: &&DeviceProfile| phone.platform == platform && phone.gpu.is_some();
        let phones: Vec<&DeviceProfile> = phones.iter().filter(known).collect();
        if phones.is_empty() {
            continue;
        }
        let library = planned.model.compile(planned.windows, target, None)?;
        let Some(cost) = TokenCost::of(&library) else { continue };
        for phone in phones {
            if let Some(gpu) = phone.gpu.as_deref().and_then(Gpu::named) {
                let roof = cost.roof(gpu.bytes_per_second(), gpu.operations_per_second());
                list.push(Speed { phone, roof });
            }
        }
    }
    Ok(list)
}

/// `about 41 tokens/s at most on iPhone 15 Pro, 26 on iPhone 13`; nothing for no phone.
pub(crate) fn sentence(speeds: &[Speed<'_>]) -> Option<String> {
    let (first, rest) = speeds.split_first()?;
    let rate = |speed: &Speed<'_>| match speed.roof.tokens_per_second() {
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    };
    let mut text = format!("about {} tokens/s at most on {}", rate(first), first.phone.title);
    for speed in rest {
        text += &format!(", {} on {}", rate(speed), speed.phone.title);
    }
    Some(text)
}
