//! `opencl`: the plan executed by the OpenCL kernels in the library, on a phone's GPU or any other OpenCL 1.2 device.
//!
//! The library is found at run time (`find`); compiled programs are kept on disk by device and driver (`cache`). Where the
//! device has half precision arithmetic and subgroups, kernels are built with them.

mod api;
mod backend;
mod bandwidth;
mod cache;
mod commands;
mod find;
mod status;

pub use find::PATH_VARIABLE;

use crate::gpu::GpuModel;
use crate::{Device, DeviceError, LoadedModel, Watch, WeightFiles, Weights};
use api::{Api, RawDevice, RawPlatform};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Target, Tiles};
use status::Status;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "opencl";
const PLATFORM_NAME: u32 = 0x0902;
const DEVICE_TYPE: u32 = 0x1000;
const DEVICE_MAX_WORK_GROUP_SIZE: u32 = 0x1004;
const DEVICE_MAX_MEM_ALLOC_SIZE: u32 = 0x1010;
const DEVICE_IMAGE_SUPPORT: u32 = 0x1016;
const DEVICE_GLOBAL_MEM_SIZE: u32 = 0x101F;
const DEVICE_LOCAL_MEM_TYPE: u32 = 0x1022;
const DEVICE_LOCAL_MEM_SIZE: u32 = 0x1023;
const DEVICE_AVAILABLE: u32 = 0x1027;
const DEVICE_COMPILER_AVAILABLE: u32 = 0x1028;
const DEVICE_NAME: u32 = 0x102B;
const DRIVER_VERSION: u32 = 0x102D;
const DEVICE_VERSION: u32 = 0x102F;
const DEVICE_EXTENSIONS: u32 = 0x1030;
const DEVICE_OPENCL_C_VERSION: u32 = 0x103D;
const DEVICE_IMAGE_MAX_BUFFER_SIZE: u32 = 0x1040;
const TYPE_GPU: u64 = 4;
/// `CL_LOCAL`: local memory is not memory as any other.
const LOCAL_APART: u64 = 1;

/// How to open an OpenCL device.
#[derive(Clone, Debug, Default)]
pub struct OpenClOptions {
    /// Libraries to try; by default what [`PATH_VARIABLE`] names, then the system's.
    pub libraries: Option<Vec<PathBuf>>,
    /// Part of the name of the device to take; by default the first GPU, or else the first device.
    pub device: Option<String>,
    /// Folder for compiled programs; without one every load compiles.
    pub cache: Option<PathBuf>,
    /// Half precision products; by default where the device has them.
    pub fp16: Option<bool>,
    /// Reductions through subgroups; by default where the device has them.
    pub subgroups: Option<bool>,
    /// How products of many tokens are tiled; by default in registers where local memory is memory as any other.
    pub tiles: Option<Tiles>,
    /// Whether these read packed codes through images; by default where tiles are in local memory and the device has images.
    pub images: Option<bool>,
    /// Whether what a token runs is recorded once; by default where the device can.
    pub recorded: Option<bool>,
    /// Bytes that all models may take together, where that is less than the device's memory.
    pub memory: Option<u64>,
    /// Bytes of the largest buffer, where that is less than the device's.
    pub largest_buffer: Option<u64>,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenClInfo {
    /// `CL_DEVICE_NAME`.
    pub name: String,
    /// The platform's name.
    pub platform: String,
    /// Version of the driver.
    pub driver: String,
    /// OpenCL version of the device.
    pub version: String,
    /// Newest OpenCL C that it compiles.
    pub language: String,
    /// Whether it is a GPU.
    pub gpu: bool,
    /// Half precision arithmetic (`cl_khr_fp16`).
    pub fp16: bool,
    /// Subgroups (`cl_khr_subgroups`).
    pub subgroups: bool,
    /// Whether kernels may say how wide their subgroups are (`cl_qcom_reqd_sub_group_size`).
    pub pins_subgroups: bool,
    /// Whether launches can be recorded (`cl_khr_command_buffer`, `cl_qcom_recordable_queues`).
    pub records: bool,
    /// Bytes of device memory.
    pub memory: u64,
    /// Bytes of its largest buffer.
    pub largest_buffer: u64,
    /// Pixels of its largest image over a buffer; 0 without images.
    pub image_pixels: u64,
    /// Whether local memory is apart from the rest, as fast as registers nearly.
    pub local_apart: bool,
    /// Bytes of local memory of a work group.
    pub local_memory: u64,
    /// Most threads of a work group.
    pub threads: u64,
    /// Whether it can be used and compiles programs.
    usable: bool,
}

impl OpenClInfo {
    fn query(api: &Api, platform: RawPlatform, device: RawDevice) -> Result<Self, Status> {
        let number = |name| api.device_number(device, name);
        let text = |name| api.device_text(device, name);
        let extensions = text(DEVICE_EXTENSIONS)?;
        let has = |name: &str| extensions.split_whitespace().any(|extension| extension == name);
        Ok(OpenClInfo {
            name: text(DEVICE_NAME)?,
            platform: api.platform_text(platform, PLATFORM_NAME)?,
            driver: text(DRIVER_VERSION)?,
            version: text(DEVICE_VERSION)?,
            language: text(DEVICE_OPENCL_C_VERSION)?,
            gpu: number(DEVICE_TYPE)? & TYPE_GPU != 0,
            fp16: has("cl_khr_fp16"),
            subgroups: has("cl_khr_subgroups"),
            pins_subgroups: has("cl_qcom_reqd_sub_group_size"),
            records: commands::are_recorded(&extensions),
            memory: number(DEVICE_GLOBAL_MEM_SIZE)?,
            largest_buffer: number(DEVICE_MAX_MEM_ALLOC_SIZE)?,
            image_pixels: match number(DEVICE_IMAGE_SUPPORT)? {
                0 => 0,
                _ => number(DEVICE_IMAGE_MAX_BUFFER_SIZE).unwrap_or(0),
            },
            local_apart: number(DEVICE_LOCAL_MEM_TYPE)? == LOCAL_APART,
            local_memory: number(DEVICE_LOCAL_MEM_SIZE)?,
            threads: number(DEVICE_MAX_WORK_GROUP_SIZE)?,
            usable: number(DEVICE_AVAILABLE)? != 0 && number(DEVICE_COMPILER_AVAILABLE)? != 0,
        })
    }
}

fn unavailable(reason: impl Into<String>) -> DeviceError {
    DeviceError::Unavailable { device: NAME, reason: reason.into() }
}

fn refused(operation: &'static str) -> impl Fn(Status) -> DeviceError {
    move |status| DeviceError::Driver { device: NAME, operation, status: status.to_string() }
}

/// An OpenCL device.
#[derive(Clone)]
pub struct OpenClDevice {
    context: Arc<api::Context>,
    info: OpenClInfo,
    options: OpenClOptions,
}

impl std::fmt::Debug for OpenClDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenClDevice").field("info", &self.info).field("options", &self.options).finish_non_exhaustive()
    }
}

impl OpenClDevice {
    /// Loads the OpenCL library and opens a device.
    ///
    /// # Errors
    /// No library, no device, or none that can run the kernels.
    pub fn open(options: OpenClOptions) -> Result<Self, DeviceError> {
        let variable = std::env::var_os(PATH_VARIABLE);
        let candidates = options.libraries.clone().unwrap_or_else(|| find::candidates(variable.as_deref()));
        let api = Api::load(&candidates)?;
        let (platform, device, mut info) = choose(&api, options.device.as_deref())?;
        info.memory = info.memory.min(options.memory.unwrap_or(u64::MAX));
        info.largest_buffer = info.largest_buffer.min(options.largest_buffer.unwrap_or(u64::MAX));
        let context = api::Context::new(api, platform, device).map_err(refused("open the device"))?;
        Ok(OpenClDevice { context: Arc::new(context), info, options })
    }

    /// What the device says of itself.
    pub fn info(&self) -> &OpenClInfo {
        &self.info
    }

    /// Bytes of the buffers of all models now.
    pub fn allocated(&self) -> u64 {
        self.context.allocated()
    }

    /// Every device of every platform, whether it can be used or not.
    ///
    /// # Errors
    /// No library, or a driver that fails.
    pub fn list(options: &OpenClOptions) -> Result<Vec<OpenClInfo>, DeviceError> {
        let variable = std::env::var_os(PATH_VARIABLE);
        let candidates = options.libraries.clone().unwrap_or_else(|| find::candidates(variable.as_deref()));
        Ok(all(&Api::load(&candidates)?)?.into_iter().map(|(_, _, info)| info).collect())
    }
}

/// Held while devices are listed: a driver sets itself up at the first question, and not every one (PoCL 3.1) survives two threads
/// asking at once.
static DISCOVERY: Mutex<()> = Mutex::new(());

/// All devices; one that fails to describe itself is left out.
fn all(api: &Api) -> Result<Vec<(RawPlatform, RawDevice, OpenClInfo)>, DeviceError> {
    let _alone = DISCOVERY.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::new();
    for platform in api.platforms().map_err(refused("list the platforms"))? {
        for device in api.devices(platform).map_err(refused("list the devices"))? {
            if let Ok(info) = OpenClInfo::query(api, platform, device) {
                found.push((platform, device, info));
            }
        }
    }
    Ok(found)
}

fn choose(api: &Api, name: Option<&str>) -> Result<(RawPlatform, RawDevice, OpenClInfo), DeviceError> {
    let devices = all(api)?;
    let names: Vec<_> = devices.iter().map(|(_, _, info)| info.name.clone()).collect();
    let fits = |info: &OpenClInfo| info.usable && name.is_none_or(|name| info.name.contains(name));
    let mut fitting: Vec<_> = devices.into_iter().filter(|(_, _, info)| fits(info)).collect();
    // A stable sort: the first GPU, or the first of all.
    fitting.sort_by_key(|(_, _, info)| !info.gpu);
    fitting.into_iter().next().ok_or_else(|| {
        let wanted = name.map_or_else(String::new, |name| format!(" named like `{name}`"));
        let path = api.path.display();
        unavailable(format!("{path} has no usable device{wanted}; its devices: [{}]", names.join(", ")))
    })
}

impl Device for OpenClDevice {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> String {
        let info = &self.info;
        let can = |has: bool, what: &'static str| if has { what } else { "" };
        format!(
            "{} ({}, driver {}, {}{}{}, {} MiB, buffers up to {} MiB), from {}",
            info.name,
            info.platform,
            info.driver,
            info.language,
            can(info.fp16, ", fp16"),
            can(info.subgroups, ", subgroups"),
            info.memory >> 20,
            info.largest_buffer >> 20,
            self.context.path().display(),
        )
    }

    fn target(&self) -> Target {
        Target::OpenCl
    }

    fn load_from(
        &self,
        library: Arc<ModelLibrary>,
        files: &dyn WeightFiles,
        watch: &dyn Watch,
    ) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let total = library.memory.total();
        if total > self.info.memory {
            return Err(DeviceError::OutOfMemory { what: "model", bytes: total });
        }
        let weights = Weights::open(&library, files, &crate::memory::Account::default(), watch)?;
        Ok(Box::new(GpuModel::load(backend::OpenClBackend::new(self.clone()), library, weights, watch)?))
    }
}
