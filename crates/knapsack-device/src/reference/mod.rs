//! `cpu-reference`: the plan executed by the plainest scalar float32 code there is. The oracle for every other device: weights
//! are dequantized with exact products, activations stay float32, and so does the KV cache (the one allocation that may differ
//! from the plan, where the plan's cache is float16; the count says so).

mod ops;
mod recurrent;

use crate::call::Call;
use crate::host::{Executor, HostMemory, HostModel};
use crate::memory::Account;
use crate::{Device, DeviceError, LoadedModel, Watch, WeightFiles};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::Target;
use knapsack_artifact::plan::{Launch, Op};
use knapsack_tensor::DType;
use ops::Plain;
use std::sync::Arc;

/// The reference device.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceDevice;

impl Device for ReferenceDevice {
    fn name(&self) -> &'static str {
        "cpu-reference"
    }

    fn description(&self) -> String {
        "scalar float32, one thread".to_owned()
    }

    fn target(&self) -> Target {
        Target::Host
    }

    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let memory = HostMemory::load(library, files, Account::default(), Some(DType::F32), watch)?;
        Ok(Box::new(HostModel::new(memory, ReferenceExecutor)))
    }
}

/// Executes launches with the reference's routines.
pub(crate) struct ReferenceExecutor;

impl Executor for ReferenceExecutor {
    fn launch(&self, memory: &mut HostMemory, launch: &Launch, call: Call) -> Result<(), DeviceError> {
        let mut plain = Plain { memory };
        match &launch.op {
            Op::Embed(op) => plain.embed(op, call),
            Op::Norm(op) => plain.norm(op, call),
            Op::AddNorm(op) => plain.add_norm(op, call),
            Op::Linear(op) => plain.linear(op, call),
            Op::RopeAppend(op) => plain.rope_append(op, call),
            Op::Attention(op) => plain.attention(op, call),
            Op::CausalConv(op) => plain.causal_conv(op, call),
            Op::GatedDelta(op) => plain.gated_delta(op, call),
            Op::RopeQuery(op) => plain.rope_query(op, call),
            Op::Select(op) => plain.select(op, call),
        }
        Ok(())
    }
}
