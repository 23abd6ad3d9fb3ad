//! `cpu-reference`: the plan executed by the plainest scalar float32 code there is. The oracle for every other device: weights
//! are dequantized with exact products, activations stay float32, and so does the KV cache (the one allocation that may differ
//! from the plan, where the plan's cache is float16; the count says so).

mod ops;

use crate::call::{Call, check_forward, check_logits, write_rope_rows};
use crate::memory::{Account, Part, Region};
use crate::{Device, DeviceError, LoadedModel, Weights};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::MemoryPlan;
use knapsack_artifact::plan::{Op, Rows};
use std::path::Path;
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

    fn load(&self, library: Arc<ModelLibrary>, folder: &Path) -> Result<Box<dyn LoadedModel>, DeviceError> {
        library.validate().map_err(|source| DeviceError::Library { source: Box::new(source) })?;
        let account = Account::default();
        let weights = Weights::open(&library, folder, &account)?;
        let workspace = Region::new(&account, Part::Workspace, library.memory.workspace)?;
        let cache = library.kv_cache.iter();
        let cache = cache.map(|layer| Ok([(); 2].map(|()| Region::new(&account, Part::KvCache, 4 * layer.elements()))));
        let cache = cache.map(|pair: Result<_, DeviceError>| {
            let [keys, values] = pair?;
            Ok([keys?, values?])
        });
        let cache = cache.collect::<Result<Vec<[Region; 2]>, DeviceError>>()?;
        Ok(Box::new(ReferenceModel { library, weights, workspace, cache, account, rows: 0 }))
    }
}

/// A model on the reference device.
struct ReferenceModel {
    library: Arc<ModelLibrary>,
    weights: Weights,
    workspace: Region,
    /// Keys and values of each layer, float32.
    cache: Vec<[Region; 2]>,
    account: Account,
    /// Rows that the last successful forward left.
    rows: u32,
}

impl ReferenceModel {
    fn arena(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.workspace.bytes_mut())
    }

    /// A copy of the first `n` rows.
    fn read(&mut self, rows: Rows, n: u32) -> Vec<f32> {
        let (start, len) = (rows.offset as usize / 4, n as usize * rows.columns as usize);
        self.arena()[start..start + len].to_vec()
    }

    fn write(&mut self, rows: Rows, values: &[f32]) {
        let start = rows.offset as usize / 4;
        self.arena()[start..start + values.len()].copy_from_slice(values);
    }

    fn tokens(&mut self, n: u32) -> Vec<u32> {
        let start = self.library.io.tokens.offset as usize;
        bytemuck::cast_slice(&self.workspace.bytes()[start..start + 4 * n as usize]).to_vec()
    }

    fn launch(&mut self, op: &Op, call: Call) {
        match op {
            Op::Embed(op) => self.embed(op, call),
            Op::Norm(op) => self.norm(op, call),
            Op::AddNorm(op) => self.add_norm(op, call),
            Op::Linear(op) => self.linear(op, call),
            Op::RopeAppend(op) => self.rope_append(op, call),
            Op::Attention(op) => self.attention(op, call),
        }
    }
}

impl LoadedModel for ReferenceModel {
    fn library(&self) -> &Arc<ModelLibrary> {
        &self.library
    }

    fn memory(&self) -> MemoryPlan {
        self.account.now()
    }

    fn forward(&mut self, tokens: &[u32], position: u32) -> Result<(), DeviceError> {
        let library = self.library.clone();
        let call = check_forward(&library, tokens, position)?;
        let start = library.io.tokens.offset as usize;
        self.workspace.bytes_mut()[start..start + 4 * tokens.len()].copy_from_slice(bytemuck::cast_slice(tokens));
        for table in &library.rope_tables {
            let (start, len) = (table.rows.offset as usize / 4, call.n as usize * table.rows.columns as usize);
            write_rope_rows(table, call, &mut self.arena()[start..start + len]);
        }
        let function = if call.n == 1 { &library.decode } else { &library.prefill };
        for launch in &function.launches {
            self.launch(&launch.op, call);
        }
        self.rows = call.n;
        Ok(())
    }

    fn logits(&mut self, row: u32, output: &mut [f32]) -> Result<(), DeviceError> {
        let library = self.library.clone();
        let call = check_logits(&library, self.rows, row, output)?;
        for launch in &library.head.launches {
            self.launch(&launch.op, call);
        }
        output.copy_from_slice(&self.read(library.io.logits, 1));
        Ok(())
    }
}
