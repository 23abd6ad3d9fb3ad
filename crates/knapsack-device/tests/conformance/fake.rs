//! The fake device: an instance of the suite like any other, and what it is for besides, refusals.

use super::build::{Builder, Sample};
use super::{Bounds, Instance, suite};
use knapsack_artifact::library::MemoryPlan;
use knapsack_artifact::plan::KvLayer;
use knapsack_device::{Device, DeviceError, FakeDevice, LoadedModel};
use knapsack_tensor::DType;
use std::sync::Arc;

#[test]
fn fake() {
    let device = FakeDevice::new(1 << 30);
    suite(&Instance {
        name: "fake".to_owned(),
        device: &device,
        prepare: Arc::clone,
        bounds: Bounds { exact: 1e-5, cached: 1e-3, quantized: 1e-5, model: 0.005, dense_model: 0.005 },
        cases: 32,
        models: &[],
        exact_memory: true,
    });
    assert_eq!(device.allocated(), 0);
    assert!(device.peak() > 0 && device.launches() > 0);
}

/// A model of three allocations and, for a forward and its logits, two launches.
fn sample() -> Sample {
    let mut b = Builder::new(4, 8, 1);
    let (rows, _) = b.input(16, 16);
    let layer = KvLayer { kv_heads: 1, head_dim: 8, positions: 8, window: None, sinks: 0, dtype: DType::F16 };
    b.library.kv_cache.push(layer);
    b.finish(rows)
}

fn logits(model: &mut dyn LoadedModel) -> Result<Vec<f32>, DeviceError> {
    let mut logits = vec![0.0; 16];
    model.forward(&[3], 0)?;
    model.logits(0, &mut logits)?;
    Ok(logits)
}

#[test]
fn memory_ends_where_it_was_told_to() {
    let sample = sample();
    let (library, folder) = (&sample.library, sample.folder.path());
    let MemoryPlan { weights, kv_cache, workspace, .. } = library.memory;
    let total = weights + kv_cache + workspace;
    let device = FakeDevice::new(2 * total - 1);
    let model = device.load(library.clone(), folder).unwrap();
    assert_eq!((model.memory(), device.allocated(), device.allocations()), (library.memory, total, 3));
    let error = device.load(library.clone(), folder).err().unwrap();
    assert!(matches!(error, DeviceError::OutOfMemory { what: "workspace", bytes } if bytes == workspace), "{error}");
    assert_eq!(device.allocated(), total);
    device.set_memory(2 * total);
    let second = device.load(library.clone(), folder).unwrap();
    drop(model);
    drop(second);
    assert_eq!((device.allocated(), device.peak()), (0, 2 * total));
}

#[test]
fn what_is_refused_leaves_the_rest_alone() {
    let sample = sample();
    let (library, folder) = (&sample.library, sample.folder.path());
    let device = FakeDevice::new(u64::MAX);
    let mut other = device.load(library.clone(), folder).unwrap();
    let expected = logits(&mut *other).unwrap();
    for (n, part) in (1..).zip(["weights", "KV cache", "workspace"]) {
        device.refuse_allocation(n);
        let error = device.load(library.clone(), folder).err().unwrap();
        assert!(matches!(error, DeviceError::OutOfMemory { what, .. } if what == part), "{n}: {error}");
        assert_eq!(device.allocated(), library.memory.total());
    }
    let mut model = device.load(library.clone(), folder).unwrap();
    for n in [1, 2] {
        device.refuse_launch(n);
        let error = logits(&mut *model).unwrap_err();
        assert!(matches!(error, DeviceError::Driver { device: "fake", .. }), "{n}: {error}");
        assert_eq!(logits(&mut *other).unwrap(), expected);
    }
    device.refuse_launch(1);
    assert!(model.forward(&[3], 0).is_err());
    let error = model.logits(0, &mut [0.0; 16]).unwrap_err();
    assert!(matches!(error, DeviceError::InvalidCall(_)), "nothing was left by the failed call: {error}");
    assert_eq!(logits(&mut *model).unwrap(), expected);
}
