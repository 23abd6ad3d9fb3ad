//! `cpu`: the plan executed by vector routines on the processor's cores.
//!
//! * [`model`]: a loaded model; turns each launch into a [`task`] and runs it on the [`pool`].
//! * [`table`]: the routines of each instruction set, chosen at run time.
//! * [`vector`]: the interface that the routines are written over; [`arch`]: who implements it.
//! * The routines: [`quantize`], [`linear`], [`attention`], [`rope`], [`conv`], [`delta`], [`norm`], [`embed`], with [`math`].
//!
//! Weights stay where they are mapped, in MLC's layout. Activations that meet grouped weights are quantized to int8, one scale
//! for each group; everything else is float32, the cache as the plan says. Results do not depend on the number of threads.

mod arch;
#[allow(clippy::needless_range_loop, reason = "registers and strided memory are walked side by side")]
mod attention;
#[allow(clippy::needless_range_loop, reason = "registers and strided memory are walked side by side")]
mod conv;
mod cores;
#[allow(clippy::needless_range_loop, reason = "registers and strided memory are walked side by side")]
mod delta;
mod embed;
#[allow(clippy::needless_range_loop, reason = "registers and strided memory are walked side by side")]
mod linear;
mod math;
mod model;
mod norm;
mod pool;
mod quantize;
mod rope;
mod table;
mod task;
mod vector;

pub use table::Isa;

use crate::host::{HostMemory, HostModel};
use crate::memory::Account;
use crate::{Device, DeviceError, LoadedModel, Watch, WeightFiles};
use cores::Placement;
use knapsack_artifact::library::Target;
use knapsack_artifact::{InvalidLibrary, ModelLibrary};
use model::CpuExecutor;
use pool::Pool;
use std::sync::Arc;
use table::Table;

/// The CPU device: an instruction set and a pool of threads, shared by the models it loads.
pub struct CpuDevice {
    isa: Isa,
    table: &'static Table,
    pool: Arc<Pool>,
}

impl CpuDevice {
    /// The fastest instruction set, on the performance cores (all cores where all are fast) or as many threads as
    /// `KNAPSACK_THREADS` says.
    pub fn new() -> Self {
        Self::with_isa(Isa::best()).expect("the best instruction set is available")
    }

    /// A given instruction set and number of threads.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when this processor does not have it.
    pub fn with(isa: Isa, threads: usize) -> Result<Self, DeviceError> {
        Self::placed(isa, &Placement::anywhere(threads.clamp(1, 256)))
    }

    fn placed(isa: Isa, placement: &Placement) -> Result<Self, DeviceError> {
        let table = isa.table().ok_or_else(|| DeviceError::Unavailable {
            device: "cpu",
            reason: format!("this processor has no {isa}"),
        })?;
        Ok(CpuDevice { isa, table, pool: Arc::new(Pool::new(placement)) })
    }

    /// A given instruction set, on the cores that [`CpuDevice::new`] takes.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when this processor does not have it.
    pub(crate) fn with_isa(isa: Isa) -> Result<Self, DeviceError> {
        Self::placed(isa, &pool::default_placement())
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that work on a launch.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Default for CpuDevice {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> String {
        format!("{}, {} threads", self.isa, self.pool.threads())
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
        let memory = HostMemory::load(library.clone(), files, Account::default(), None, watch)?;
        check_scratch(&library).map_err(|source| DeviceError::Library { source: Box::new(source) })?;
        memory.weights.prefetch(watch)?;
        Ok(Box::new(HostModel::new(memory, CpuExecutor { table: self.table, pool: self.pool.clone() })))
    }
}

/// Every launch of a valid library has the scratch that its routines need.
fn check_scratch(library: &ModelLibrary) -> Result<(), InvalidLibrary> {
    for (name, function) in [("prefill", &library.prefill), ("decode", &library.decode), ("head", &library.head)] {
        for (index, launch) in function.launches.iter().enumerate() {
            let needed = launch.op.scratch_bytes().unwrap_or(0);
            let given = launch.scratch.map_or(0, |scratch| scratch.bytes_per_token);
            if given < needed {
                return Err(InvalidLibrary {
                    place: format!("{name} launch {index} ({})", launch.op.name()),
                    problem: format!("scratch of {given} bytes per token, the CPU needs {needed}"),
                });
            }
        }
    }
    Ok(())
}
