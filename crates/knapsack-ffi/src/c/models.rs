use super::answer::KnapsackCancel;
use super::{KnapsackError, KnapsackStr, KnapsackTransport, at, give, sized};
use crate::core::{
    Background, Bundle, Code, Error, ModelState, Models, Options, Result, TakeFile, guard, loaded_table, table_at,
};
use knapsack_device::FileRange;
use knapsack_runtime::manager::{Event, EvictionReason, Listener};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The models of an app.
pub struct KnapsackModels(pub(super) Models);

/// What happened to a model.
pub type KnapsackOnEvent =
    unsafe extern "C" fn(context: *mut c_void, kind: u32, model_id: KnapsackStr, value: u64, text: KnapsackStr);
/// One model.
pub type KnapsackOnModel = unsafe extern "C" fn(context: *mut c_void, model: *const KnapsackModelInfo);
/// One file of a model.
pub type KnapsackOnWanted = unsafe extern "C" fn(context: *mut c_void, file: *const KnapsackWanted);
/// How far a download is; false stops it.
pub type KnapsackOnProgress = unsafe extern "C" fn(context: *mut c_void, done: u64, total: u64) -> bool;

/// What an app opens its models with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KnapsackOpen {
    /// Of this struct.
    pub size: usize,
    /// The package's `bundle` folder.
    pub bundle: KnapsackStr,
    /// The model table, or null.
    pub table: *const c_void,
    /// A shared library that has it.
    pub library: KnapsackStr,
    /// The folder for downloads, or empty.
    pub storage: KnapsackStr,
    /// Bytes, or 0.
    pub budget: u64,
    /// 0 GPU, 1 all, 2 nothing.
    pub background: u32,
    /// For downloads.
    pub transport: KnapsackTransport,
    /// May be null.
    pub on_event: Option<KnapsackOnEvent>,
    /// For `on_event`.
    pub event_context: *mut c_void,
}

/// One model of the package.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnapsackModelInfo {
    /// `model_id` of the manifest.
    pub id: KnapsackStr,
    /// Bytes when it is loaded.
    pub memory: u64,
    /// Tokens, or 0.
    pub context: u32,
    /// Bytes, or 0.
    pub download: u64,
    /// Or empty.
    pub revision: KnapsackStr,
}

/// One file of a model, for an app whose system downloads it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KnapsackWanted {
    /// Where it is downloaded from.
    pub url: KnapsackStr,
    /// Its name in the model.
    pub path: KnapsackStr,
    /// Bytes.
    pub bytes: u64,
    /// Whether it is here already.
    pub have: bool,
}

/// Whether a model can be used at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnapsackState {
    /// 0 bundled, 1 ready, 2 missing, 3 partly downloaded.
    pub kind: u32,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of the model.
    pub total: u64,
}

/// A pointer of the app's that its callbacks take; they may be called from any thread.
#[derive(Clone, Copy)]
pub(super) struct Context(pub(super) *mut c_void);

// SAFETY: the header says from which threads callbacks come; what the pointer names is the app's to protect.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl KnapsackOpen {
    unsafe fn options(&self) -> Result<Options> {
        // SAFETY: the strings of the caller's struct are alive for the call.
        let (bundle, library, storage) = unsafe { (self.bundle.text()?, self.library.text()?, self.storage.text()?) };
        let table = match self.table.is_null() {
            // SAFETY: the header says what the address must be.
            false => unsafe { table_at(self.table)? },
            true => loaded_table(library)?,
        };
        let background = match self.background {
            0 => Background::StopGpu,
            1 => Background::StopAll,
            2 => Background::Continue,
            other => return Err(Error::new(Code::InvalidArgument, format!("background {other}"))),
        };
        Ok(Options {
            bundle: Bundle::Folder(PathBuf::from(bundle)),
            table,
            storage: (!storage.is_empty()).then(|| PathBuf::from(storage)),
            budget: (self.budget > 0).then_some(self.budget),
            background,
            transport: self.transport.transport(),
            listener: self.on_event.map(|call| listener(call, Context(self.event_context))),
        })
    }
}

fn listener(call: KnapsackOnEvent, context: Context) -> Listener {
    Box::new(move |event| {
        let context = &context;
        let (kind, id, value, text) = number_of(event);
        // SAFETY: the app's own callback, with the context that came with it.
        unsafe { call(context.0, kind, KnapsackStr::new(id), value, KnapsackStr::new(&text)) };
    })
}

/// An event as the numbers that the header lists.
pub(crate) fn number_of<'a>(event: &Event<'a>) -> (u32, &'a str, u64, String) {
    match *event {
        Event::Loading { model_id, fraction } => (0, model_id, (f64::from(fraction) * 1e6) as u64, String::new()),
        Event::Loaded { model_id, bytes, .. } => (1, model_id, bytes, String::new()),
        Event::Evicted { model_id, bytes, reason } => {
            let kind = match reason {
                EvictionReason::Room => 2,
                EvictionReason::Pressure => 3,
                EvictionReason::Unloaded => 4,
            };
            (kind, model_id, bytes, String::new())
        }
        Event::Failed { model_id, error } => (5, model_id, 0, Error::from(error.clone()).message),
        _ => (u32::MAX, "", 0, String::new()),
    }
}

/// A model's state as the numbers that the header lists.
pub(crate) const fn state_numbers(state: ModelState) -> KnapsackState {
    match state {
        ModelState::Bundled => KnapsackState { kind: 0, done: 0, total: 0 },
        ModelState::Ready => KnapsackState { kind: 1, done: 0, total: 0 },
        ModelState::Missing { total } => KnapsackState { kind: 2, done: 0, total },
        ModelState::Partial { done, total } => KnapsackState { kind: 3, done, total },
    }
}

/// Opens the models of a package.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_open(
    options: *const KnapsackOpen,
    error: *mut *mut KnapsackError,
) -> *mut KnapsackModels {
    const NONE: KnapsackStr = KnapsackStr { data: std::ptr::null(), len: 0 };
    let fallback = KnapsackOpen {
        size: 0,
        bundle: NONE,
        table: std::ptr::null(),
        library: NONE,
        storage: NONE,
        budget: 0,
        background: 0,
        transport: KnapsackTransport::NONE,
        on_event: None,
        event_context: std::ptr::null_mut(),
    };
    // SAFETY: the caller's struct, of whatever version.
    let opened = guard(|| unsafe { Models::open(sized(options, size_of::<KnapsackOpen>(), fallback)?.options()?) });
    // SAFETY: the caller's place for an error.
    unsafe { give(opened, error) }
        .map_or(std::ptr::null_mut(), |models| Box::into_raw(Box::new(KnapsackModels(models))))
}

/// Frees everything.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_close(models: *mut KnapsackModels) {
    if !models.is_null() {
        let _ = guard(|| {
            // SAFETY: from `knapsack_open`, closed once, with no call running.
            drop(unsafe { Box::from_raw(models) });
            Ok(())
        });
    }
}

/// Gives every model to `on_model`.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_models(
    models: *const KnapsackModels,
    on_model: KnapsackOnModel,
    context: *mut c_void,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, and the caller's callback.
    let outcome = guard(|| unsafe {
        for model in at(models)?.0.models() {
            let info = KnapsackModelInfo {
                id: KnapsackStr::new(&model.id),
                memory: model.memory,
                context: model.context.unwrap_or(0),
                download: model.download,
                revision: KnapsackStr::new(model.revision.as_deref().unwrap_or_default()),
            };
            on_model(context, &raw const info);
        }
        Ok(())
    });
    // SAFETY: the caller's place for an error.
    unsafe { give(outcome, error) }.is_some()
}

/// Whether a model can be used at once.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_state(
    models: *const KnapsackModels,
    id: KnapsackStr,
    state: *mut KnapsackState,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, places to write to.
    unsafe {
        let found = guard(|| at(models)?.0.state(id.text()?));
        give(found, error).is_some_and(|found| write(state, state_numbers(found)))
    }
}

/// Downloads a model, or what is still missing of it.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_prepare(
    models: *const KnapsackModels,
    id: KnapsackStr,
    cancel: *const KnapsackCancel,
    on_progress: KnapsackOnProgress,
    context: *mut c_void,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, a string of the caller's, the caller's callback.
    unsafe {
        let outcome = guard(|| {
            let mut tell =
                |step: knapsack_runtime::download::DownloadProgress| on_progress(context, step.done, step.total);
            at(models)?.0.prepare(id.text()?, &at(cancel)?.0, &mut tell)
        });
        give(outcome, error).is_some()
    }
}

/// Gives every file of a model to `on_file`.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_wanted(
    models: *const KnapsackModels,
    id: KnapsackStr,
    on_file: KnapsackOnWanted,
    context: *mut c_void,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, the caller's callback.
    let outcome = guard(|| unsafe {
        for file in at(models)?.0.wanted(id.text()?)? {
            let (url, path) = (KnapsackStr::new(&file.url), KnapsackStr::new(&file.path));
            on_file(context, &KnapsackWanted { url, path, bytes: file.size, have: file.have });
        }
        Ok(())
    });
    // SAFETY: the caller's place for an error.
    unsafe { give(outcome, error) }.is_some()
}

/// Takes a file that the app's system downloaded.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_adopt(
    models: *const KnapsackModels,
    id: KnapsackStr,
    path: KnapsackStr,
    file: KnapsackStr,
    complete: *mut bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: as this function's.
    unsafe { take_file(Models::adopt, models, [id, path, file], complete, error) }
}

/// Takes note of where a file of a store's pack lies.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_place(
    models: *const KnapsackModels,
    id: KnapsackStr,
    path: KnapsackStr,
    file: KnapsackStr,
    complete: *mut bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: as this function's.
    unsafe { take_file(Models::place, models, [id, path, file], complete, error) }
}

/// What [`knapsack_adopt`] and [`knapsack_place`] have in common.
///
/// # Safety
/// See the module.
unsafe fn take_file(
    take: TakeFile,
    models: *const KnapsackModels,
    [id, path, file]: [KnapsackStr; 3],
    complete: *mut bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, strings of the caller's, places to write to.
    unsafe {
        let outcome = guard(|| take(&at(models)?.0, id.text()?, path.text()?, Path::new(file.text()?)));
        give(outcome, error).is_some_and(|found| write(complete, found))
    }
}

/// Takes note of the open file that a file of a store's pack lies in.
///
/// # Safety
/// See the module; the descriptor is open, and stays the caller's.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "one call across the border")]
pub unsafe extern "C" fn knapsack_place_range(
    models: *const KnapsackModels,
    id: KnapsackStr,
    path: KnapsackStr,
    descriptor: i32,
    offset: u64,
    length: u64,
    complete: *mut bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, strings of the caller's, an open descriptor, places to write to.
    unsafe {
        let outcome = guard(|| {
            let range = copied(descriptor).and_then(|file| FileRange::new(file, offset, length));
            let range = range.map_err(|problem| Error::new(Code::InvalidArgument, problem.to_string()))?;
            at(models)?.0.place_range(id.text()?, path.text()?, range)
        });
        give(outcome, error).is_some_and(|found| write(complete, found))
    }
}

/// A descriptor of our own for an open file.
///
/// # Safety
/// The descriptor is open, or negative.
#[cfg(unix)]
unsafe fn copied(descriptor: i32) -> io::Result<File> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the caller's promise, for as long as this call takes.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
unsafe fn copied(_: i32) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Checks a downloaded model.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_verify(
    models: *const KnapsackModels,
    id: KnapsackStr,
    wrong: *mut u64,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, places to write to.
    unsafe {
        let outcome = guard(|| at(models)?.0.verify(id.text()?));
        give(outcome, error).is_some_and(|files| write(wrong, files.len() as u64))
    }
}

/// Removes a downloaded model.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_remove(
    models: *const KnapsackModels,
    id: KnapsackStr,
    removed: *mut bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, places to write to.
    unsafe {
        let outcome = guard(|| at(models)?.0.remove(id.text()?));
        give(outcome, error).is_some_and(|found| write(removed, found))
    }
}

/// Whether the model fits into the budget.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_fits(
    models: *const KnapsackModels,
    id: KnapsackStr,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, a place for an error.
    unsafe { give(guard(|| at(models)?.0.fits(id.text()?)), error).is_some() }
}

/// Loads a model ahead of its first answer.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_load(
    models: *const KnapsackModels,
    id: KnapsackStr,
    cancel: *const KnapsackCancel,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: live handles, a string of the caller's, a place for an error.
    unsafe { give(guard(|| at(models)?.0.load(id.text()?, &at(cancel)?.0)), error).is_some() }
}

/// Frees a loaded model.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_unload(
    models: *const KnapsackModels,
    id: KnapsackStr,
    unloaded: *mut bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, places to write to.
    unsafe {
        let outcome = guard(|| at(models)?.0.unload(id.text()?));
        give(outcome, error).is_some_and(|found| write(unloaded, found))
    }
}

/// Keeps a model from being evicted, or lets it go again.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_pin(
    models: *const KnapsackModels,
    id: KnapsackStr,
    pinned: bool,
    error: *mut *mut KnapsackError,
) -> bool {
    // SAFETY: a live handle, a string of the caller's, a place for an error.
    unsafe {
        let outcome = guard(|| {
            at(models)?.0.pin(id.text()?, pinned);
            Ok(())
        });
        give(outcome, error).is_some()
    }
}

/// Frees what is not in use.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_memory_pressure(models: *const KnapsackModels, critical: bool) -> u64 {
    // SAFETY: a live handle.
    guard(|| Ok(unsafe { at(models) }?.0.memory_pressure(critical))).unwrap_or(0)
}

/// Sets the budget.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_set_budget(models: *const KnapsackModels, bytes: u64) {
    let _ = guard(|| {
        // SAFETY: a live handle.
        unsafe { at(models) }?.0.set_budget(bytes);
        Ok(())
    });
}

/// The app goes to the background.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_pause(models: *const KnapsackModels) {
    let _ = guard(|| {
        // SAFETY: a live handle.
        unsafe { at(models) }?.0.pause();
        Ok(())
    });
}

/// The app is back.
///
/// # Safety
/// See the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn knapsack_resume(models: *const KnapsackModels) {
    let _ = guard(|| {
        // SAFETY: a live handle.
        unsafe { at(models) }?.0.resume();
        Ok(())
    });
}

/// Writes a result out; always true, so that a call can end with it.
unsafe fn write<T>(place: *mut T, value: T) -> bool {
    if !place.is_null() {
        // SAFETY: not null, and the caller lets us write.
        unsafe { place.write(value) };
    }
    true
}
