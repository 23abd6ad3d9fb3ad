//! JNI for `ai.knapsack.internal.Native`: static methods, handles as `long`. A failure is thrown as
//! `ai.knapsack.internal.NativeFailure`; an exception of the app's own callbacks ends the call and goes on to its caller.
//!
//! Safety, for all of it: a handle came from here and is freed after the last call with it has returned, which the Kotlin side
//! counts (`Handle`).

use crate::c::{context_policy, number_of, state_numbers};
use crate::core::{
    Background, Bundle, Code, Error, Models, Options, Piece, Result as Outcome, TakeFile, guard, holding, loaded_table,
    log,
};
use jni::objects::{JByteArray, JClass, JLongArray, JObject, JObjectArray, JString, JThrowable};
use jni::refs::Global;
use jni::sys::{jboolean, jint, jlong};
use jni::{Env, EnvUnowned, JValue, JavaVM, jni_sig, jni_str};
use knapsack_device::{FileRange, WeightFiles};
use knapsack_runtime::CancelFlag;
use knapsack_runtime::download::{Body, Transport, TransportError};
use knapsack_runtime::manager::Listener;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

type Jni<T> = std::result::Result<T, jni::errors::Error>;
type Strings<'l> = JObjectArray<'l, JString<'l>>;

/// Enters from Java; a panic of this file becomes a `RuntimeException`.
fn enter<'l, T: Default>(env: &mut EnvUnowned<'l>, body: impl FnOnce(&mut Env<'l>) -> Jni<T>) -> T {
    env.with_env(body).resolve::<jni::errors::ThrowRuntimeExAndDefault>()
}

/// A result for Java, or a thrown `NativeFailure`.
fn give<T: Default>(env: &mut Env<'_>, result: Outcome<T>) -> Jni<T> {
    let Err(Error { code, message, numbers, holders }) = result else { return Ok(result.unwrap_or_default()) };
    let text = env.new_string(&message)?;
    let ids = strings(env, holders.iter().map(|holder| &*holder.model_id))?;
    let figures: Vec<jlong> =
        holders.iter().flat_map(|holder| [holder.bytes as jlong, jlong::from(holding(holder.used))]).collect();
    let figures = longs(env, &figures)?;
    let exception = env.new_object(
        jni_str!("ai/knapsack/internal/NativeFailure"),
        jni_sig!("(ILjava/lang/String;JJ[Ljava/lang/String;[J)V"),
        &[
            JValue::Int(code as jint),
            JValue::Object(&text),
            JValue::Long(numbers[0] as jlong),
            JValue::Long(numbers[1] as jlong),
            JValue::Object(&ids),
            JValue::Object(&figures),
        ],
    )?;
    let exception = env.cast_local::<JThrowable>(exception)?;
    env.throw(exception)?;
    Ok(T::default())
}

fn strings<'l, 's>(env: &mut Env<'l>, list: impl ExactSizeIterator<Item = &'s str>) -> Jni<Strings<'l>> {
    let array = JObjectArray::<JString>::new(env, list.len(), JString::null())?;
    for (index, text) in list.enumerate() {
        let text = env.new_string(text)?;
        array.set_element(env, index, text)?;
    }
    Ok(array)
}

fn longs<'l>(env: &mut Env<'l>, numbers: &[jlong]) -> Jni<JLongArray<'l>> {
    let array = JLongArray::new(env, numbers.len())?;
    array.set_region(env, 0, numbers)?;
    Ok(array)
}

/// The models behind a handle.
fn models<'a>(handle: jlong) -> Outcome<&'a Models> {
    // SAFETY: null, or live for this call (see the module).
    unsafe { (handle as *const Models).as_ref() }.ok_or_else(|| Error::new(Code::InvalidArgument, "a handle is null"))
}

fn flag<'a>(handle: jlong) -> Outcome<&'a CancelFlag> {
    // SAFETY: null, or live for this call (see the module).
    unsafe { (handle as *const CancelFlag).as_ref() }
        .ok_or_else(|| Error::new(Code::InvalidArgument, "a handle is null"))
}

/// The app's side: what it is told, and how it downloads (`ai.knapsack.internal.Host`).
struct Host {
    vm: JavaVM,
    object: Global<JObject<'static>>,
}

impl Host {
    /// Calls into Java from whatever thread this is. An exception there is forgotten: nobody up the stack is Java's.
    fn call<T>(&self, body: impl FnOnce(&mut Env<'_>) -> Jni<T>) -> Option<T> {
        let outcome = self.vm.attach_current_thread(|env| {
            let outcome = body(env);
            if outcome.is_err() {
                env.exception_clear();
            }
            outcome
        });
        outcome.ok()
    }
}

fn listener(host: Arc<Host>) -> Listener {
    Box::new(move |event| {
        let (kind, id, value, text) = number_of(event);
        host.call(|env| {
            let (id, text) = (env.new_string(id)?, env.new_string(text)?);
            let name = jni_str!("event");
            let signature = jni_sig!("(ILjava/lang/String;JLjava/lang/String;)V");
            let values =
                [JValue::Int(kind as jint), JValue::Object(&id), JValue::Long(value as jlong), JValue::Object(&text)];
            env.call_method(&host.object, name, signature, &values).map(drop)
        });
    })
}

struct JavaTransport(Arc<Host>);

impl Transport for JavaTransport {
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
        let host = self.0.clone();
        let answer = host.call(|env| {
            let url = env.new_string(url)?;
            let name = jni_str!("get");
            let signature = jni_sig!("(Ljava/lang/String;J)Lai/knapsack/internal/Body;");
            let values = [JValue::Object(&url), JValue::Long(from as jlong)];
            let body = env.call_method(&host.object, name, signature, &values)?.l()?;
            if body.is_null() {
                return Ok(None);
            }
            let status = env.call_method(&body, jni_str!("status"), jni_sig!("()I"), &[])?.i()?;
            let wait = env.call_method(&body, jni_str!("wait"), jni_sig!("()J"), &[])?.j()?;
            let buffer = JByteArray::new(env, CHUNK)?;
            let (body, buffer) = (env.new_global_ref(body)?, env.new_global_ref(buffer)?);
            Ok(Some((status, wait, Reader { host: host.clone(), body, buffer })))
        });
        let Some((status, wait, reader)) = answer.flatten() else {
            return Err(TransportError::Connection("no answer".into()));
        };
        let start = match status {
            200 => 0,
            206 => from,
            429 | 503 if wait > 0 => return Err(TransportError::Limited(Duration::from_secs(wait as u64))),
            other => return Err(TransportError::Status(u16::try_from(other).unwrap_or(0))),
        };
        Ok(Body { start, reader: Box::new(reader) })
    }
}

/// The files of a package that the app opens: its assets.
struct JavaFiles {
    host: Arc<Host>,
    place: PathBuf,
}

/// Most bytes of a file that is read and not mapped: a tokenizer.
const MOST_READ: u64 = 256 << 20;

impl JavaFiles {
    /// Where a file lies in another; `None`: there is none of that name, or it is compressed.
    fn slice(&self, name: &str) -> io::Result<Option<FileRange>> {
        let found = self.host.call(|env| {
            let name = env.new_string(name)?;
            let signature = jni_sig!("(Ljava/lang/String;)[J");
            let values = [JValue::Object(&name)];
            let numbers = env.call_method(&self.host.object, jni_str!("slice"), signature, &values)?.l()?;
            if numbers.is_null() {
                return Ok(None);
            }
            let numbers = env.cast_local::<JLongArray>(numbers)?;
            let mut slice = [0; 3];
            numbers.get_region(env, 0, &mut slice)?;
            Ok(Some(slice))
        });
        match found.ok_or_else(|| io::Error::other(format!("the app could not open {name}")))? {
            Some([descriptor, offset, length]) => range(descriptor, offset, length).map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(unix)]
fn range(descriptor: jlong, offset: jlong, length: jlong) -> io::Result<FileRange> {
    use std::os::fd::FromRawFd;
    let descriptor = i32::try_from(descriptor).ok().filter(|fd| *fd >= 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the Kotlin side has let go of the descriptor, so it is this file's alone.
    let file = unsafe { std::fs::File::from_raw_fd(descriptor) };
    let number = |number: jlong| u64::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    FileRange::new(file, number(offset)?, number(length)?)
}

#[cfg(not(unix))]
fn range(_: jlong, _: jlong, _: jlong) -> io::Result<FileRange> {
    Err(io::ErrorKind::Unsupported.into())
}

impl WeightFiles for JavaFiles {
    fn open(&self, name: &str) -> io::Result<FileRange> {
        if let Some(range) = self.slice(name)? {
            return Ok(range);
        }
        let bytes = self.read(name, if name.ends_with(WEIGHTS) { 0 } else { MOST_READ });
        bytes.map(FileRange::of_bytes).map_err(|error| match error.kind() {
            // It is there, and has more bytes than none.
            io::ErrorKind::FileTooLarge if name.ends_with(WEIGHTS) => {
                let advice = "keep it as it is with androidResources { noCompress += \"bin\" }";
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("it is compressed in the app, so it cannot be mapped: {advice}"),
                )
            }
            _ => error,
        })
    }

    fn place(&self) -> &Path {
        &self.place
    }

    /// The app reads it: whether it is compressed does not matter.
    fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let most = limit.min(MOST_READ);
        let found = self.host.call(|env| {
            let name = env.new_string(name)?;
            let values = [JValue::Object(&name), JValue::Int(most as jint)];
            let signature = jni_sig!("(Ljava/lang/String;I)[B");
            let bytes = env.call_method(&self.host.object, jni_str!("read"), signature, &values)?.l()?;
            if bytes.is_null() {
                return Ok(None);
            }
            let bytes = env.cast_local::<JByteArray>(bytes)?;
            env.convert_byte_array(&bytes).map(Some)
        });
        let found = found.ok_or_else(|| io::Error::other(format!("the app could not read {name}")))?;
        let bytes = found.ok_or(io::ErrorKind::NotFound)?;
        // The app gives a byte more than it was asked for where there are more.
        if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }
}

/// Weights are mapped, never read.
const WEIGHTS: &str = ".bin";

/// Bytes that cross at a time.
const CHUNK: usize = 64 << 10;

struct Reader {
    host: Arc<Host>,
    body: Global<JObject<'static>>,
    buffer: Global<JByteArray<'static>>,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let Self { host, body, buffer } = self;
        let read = host.call(|env| {
            let most = JValue::Int(out.len().min(CHUNK) as jint);
            let name = jni_str!("read");
            let read = env.call_method(&*body, name, jni_sig!("([BI)I"), &[JValue::Object(&*buffer), most])?.i()?;
            let mut bytes = vec![0i8; usize::try_from(read).unwrap_or(0).min(out.len()).min(CHUNK)];
            buffer.get_region(env, 0, &mut bytes)?;
            for (place, byte) in out.iter_mut().zip(&bytes) {
                *place = *byte as u8;
            }
            Ok(bytes.len())
        });
        read.ok_or_else(|| std::io::Error::other("the connection broke"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.host.call(|env| env.call_method(&self.body, jni_str!("end"), jni_sig!("()V"), &[]).map(drop));
    }
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_abiVersion(_: EnvUnowned<'_>, _: JClass<'_>) -> jint {
    crate::c::ABI_VERSION as jint
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "one call across the border")]
extern "system" fn Java_ai_knapsack_internal_Native_open<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    bundle: JString<'l>,
    library: JString<'l>,
    storage: JString<'l>,
    budget: jlong,
    background: jint,
    files_of_host: jboolean,
    host: JObject<'l>,
) -> jlong {
    enter(&mut env, |env| {
        let (bundle, library) = (bundle.try_to_string(env)?, library.try_to_string(env)?);
        let storage = storage.try_to_string(env)?;
        let host = Arc::new(Host { vm: env.get_java_vm()?, object: env.new_global_ref(host)? });
        let opened = guard(|| {
            let bundle = match files_of_host {
                true => Bundle::Files(Arc::new(JavaFiles { host: host.clone(), place: PathBuf::from(bundle) })),
                false => Bundle::Folder(PathBuf::from(bundle)),
            };
            Models::open(Options {
                bundle,
                table: loaded_table(&library)?,
                storage: (!storage.is_empty()).then(|| PathBuf::from(storage)),
                budget: (budget > 0).then_some(budget as u64),
                background: match background {
                    0 => Background::StopGpu,
                    1 => Background::StopAll,
                    _ => Background::Continue,
                },
                transport: Some(Arc::new(JavaTransport(host.clone()))),
                listener: Some(listener(host)),
            })
        });
        give(env, opened.map(|models| Box::into_raw(Box::new(models)) as jlong))
    })
}

/// Gives the log to an `ai.knapsack.internal.LogSink`; null: to nobody.
#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_setLog<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    level: jint,
    sink: JObject<'l>,
) {
    enter(&mut env, |env| {
        let sink: Option<log::Sink> = match sink.is_null() {
            true => None,
            false => {
                let host = Host { vm: env.get_java_vm()?, object: env.new_global_ref(sink)? };
                Some(Arc::new(move |level, part, text| {
                    host.call(|env| {
                        let (part, text) = (env.new_string(part)?, env.new_string(text)?);
                        let values = [JValue::Int(level as jint), JValue::Object(&part), JValue::Object(&text)];
                        let signature = jni_sig!("(ILjava/lang/String;Ljava/lang/String;)V");
                        env.call_method(&host.object, jni_str!("line"), signature, &values).map(drop)
                    });
                }))
            }
        };
        log::set(u32::try_from(level).unwrap_or(0), sink);
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_close(_: EnvUnowned<'_>, _: JClass<'_>, handle: jlong) {
    let _ = guard(|| {
        // SAFETY: from `open`, closed once, after the last call (see the module).
        drop(unsafe { Box::from_raw(handle as *mut Models) });
        Ok(())
    });
}

/// Id and revision of each model; its figures are in `figures`.
#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_models<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
) -> Strings<'l> {
    enter(&mut env, |env| match guard(|| Ok(models(handle)?.models())) {
        Ok(list) => {
            let texts: Vec<&str> =
                list.iter().flat_map(|model| [&*model.id, model.revision.as_deref().unwrap_or_default()]).collect();
            strings(env, texts.into_iter())
        }
        Err(error) => give::<()>(env, Err(error)).map(|()| Strings::default()),
    })
}

/// Memory, context and download size of each model.
#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_figures<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
) -> JLongArray<'l> {
    enter(&mut env, |env| match guard(|| Ok(models(handle)?.models())) {
        Ok(list) => {
            let figures: Vec<jlong> = list
                .iter()
                .flat_map(|model| [model.memory as jlong, model.context.unwrap_or(0).into(), model.download as jlong])
                .collect();
            longs(env, &figures)
        }
        Err(error) => give::<()>(env, Err(error)).map(|()| JLongArray::default()),
    })
}

/// Kind, done, total.
#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_state<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) -> JLongArray<'l> {
    enter(&mut env, |env| {
        let id = id.try_to_string(env)?;
        match guard(|| models(handle)?.state(&id)) {
            Ok(state) => {
                let state = state_numbers(state);
                longs(env, &[state.kind.into(), state.done as jlong, state.total as jlong])
            }
            Err(error) => give::<()>(env, Err(error)).map(|()| JLongArray::default()),
        }
    })
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_prepare<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    cancel: jlong,
    sink: JObject<'l>,
) {
    enter(&mut env, |env| {
        let id = id.try_to_string(env)?;
        let mut broken: Jni<()> = Ok(());
        let prepared = guard(|| {
            models(handle)?.prepare(&id, flag(cancel)?, &mut |step| {
                let values = [JValue::Long(step.done as jlong), JValue::Long(step.total as jlong)];
                go_on(&mut broken, || env.call_method(&sink, jni_str!("step"), jni_sig!("(JJ)Z"), &values)?.z())
            })
        });
        broken?;
        give(env, prepared)
    })
}

/// A callback's answer; once it has thrown, everything ends, and its exception goes on to the caller.
fn go_on(broken: &mut Jni<()>, call: impl FnOnce() -> Jni<bool>) -> bool {
    if broken.is_err() {
        return false;
    }
    call().unwrap_or_else(|error| {
        *broken = Err(error);
        false
    })
}

/// A call with the id of a model.
fn with_id<'l, T: Default>(env: &mut EnvUnowned<'l>, id: &JString<'l>, body: impl FnOnce(&str) -> Outcome<T>) -> T {
    enter(env, |env| {
        let id = id.try_to_string(env)?;
        give(env, guard(|| body(&id)))
    })
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_remove<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) -> jboolean {
    with_id(&mut env, &id, |id| models(handle)?.remove(id))
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_fits<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) {
    with_id(&mut env, &id, |id| models(handle)?.fits(id))
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_load<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    cancel: jlong,
) {
    with_id(&mut env, &id, |id| models(handle)?.load(id, flag(cancel)?))
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_unload<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) -> jboolean {
    with_id(&mut env, &id, |id| models(handle)?.unload(id))
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_pin<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    pinned: jboolean,
) {
    with_id(&mut env, &id, |id| {
        models(handle)?.pin(id, pinned);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_releaseMemory(
    _: EnvUnowned<'_>,
    _: JClass<'_>,
    handle: jlong,
    critical: jboolean,
) -> jlong {
    guard(|| Ok(models(handle)?.memory_pressure(critical) as jlong)).unwrap_or(0)
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_setBudget(
    _: EnvUnowned<'_>,
    _: JClass<'_>,
    handle: jlong,
    available: jlong,
    threshold: jlong,
) {
    let budget = knapsack_runtime::manager::android_budget(available.max(0) as u64, threshold.max(0) as u64);
    let _ = guard(|| {
        models(handle)?.grant(budget);
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_pause(_: EnvUnowned<'_>, _: JClass<'_>, handle: jlong) {
    let _ = guard(|| {
        models(handle)?.pause();
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_resume(_: EnvUnowned<'_>, _: JClass<'_>, handle: jlong) {
    let _ = guard(|| {
        models(handle)?.resume();
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_cancelNew(_: EnvUnowned<'_>, _: JClass<'_>) -> jlong {
    Box::into_raw(Box::new(CancelFlag::new())) as jlong
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_cancelRaise(_: EnvUnowned<'_>, _: JClass<'_>, handle: jlong) {
    if let Ok(flag) = flag(handle) {
        flag.cancel();
    }
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_cancelFree(_: EnvUnowned<'_>, _: JClass<'_>, handle: jlong) {
    // SAFETY: from `cancelNew`, freed once, after the last call (see the module).
    drop(unsafe { Box::from_raw(handle as *mut CancelFlag) });
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_complete<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    request: JString<'l>,
    cancel: jlong,
    sink: JObject<'l>,
) {
    enter(&mut env, |env| {
        let request = request.try_to_string(env)?;
        let mut broken: Jni<()> = Ok(());
        let answered = guard(|| {
            models(handle)?
                .complete(&request, flag(cancel)?, &mut |event| go_on(&mut broken, || text(env, &sink, event)))
        });
        broken?;
        give(env, answered)
    })
}

/// Gives a piece of text to a `TextSink`.
fn text(env: &mut Env<'_>, sink: &JObject<'_>, piece: &str) -> Jni<bool> {
    env.with_local_frame(4, |env| {
        let piece = env.new_string(piece)?;
        let signature = jni_sig!("(Ljava/lang/String;)Z");
        env.call_method(sink, jni_str!("text"), signature, &[JValue::Object(&piece)])?.z()
    })
}

/// Addresses and names of a model's files; their figures are in `wantedFigures`.
#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_wanted<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) -> Strings<'l> {
    enter(&mut env, |env| {
        let id = id.try_to_string(env)?;
        match guard(|| models(handle)?.wanted(&id)) {
            Ok(files) => {
                let texts: Vec<&str> = files.iter().flat_map(|file| [&*file.url, &*file.path]).collect();
                strings(env, texts.into_iter())
            }
            Err(error) => give::<()>(env, Err(error)).map(|()| Strings::default()),
        }
    })
}

/// Bytes of each file, and whether it is here.
#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_wantedFigures<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) -> JLongArray<'l> {
    enter(&mut env, |env| {
        let id = id.try_to_string(env)?;
        match guard(|| models(handle)?.wanted(&id)) {
            Ok(files) => {
                let figures: Vec<jlong> =
                    files.iter().flat_map(|file| [file.size as jlong, jlong::from(file.have)]).collect();
                longs(env, &figures)
            }
            Err(error) => give::<()>(env, Err(error)).map(|()| JLongArray::default()),
        }
    })
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_adopt<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    path: JString<'l>,
    file: JString<'l>,
) -> jboolean {
    take_file(Models::adopt, &mut env, handle, [id, path, file])
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_place<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    path: JString<'l>,
    file: JString<'l>,
) -> jboolean {
    take_file(Models::place, &mut env, handle, [id, path, file])
}

fn take_file(take: TakeFile, env: &mut EnvUnowned<'_>, handle: jlong, texts: [JString<'_>; 3]) -> jboolean {
    enter(env, |env| {
        let [id, path, file] =
            [texts[0].try_to_string(env)?, texts[1].try_to_string(env)?, texts[2].try_to_string(env)?];
        give(env, guard(|| take(models(handle)?, &id, &path, Path::new(&file))))
    })
}

/// The descriptor is given away.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "one call across the border")]
extern "system" fn Java_ai_knapsack_internal_Native_placeSlice<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    path: JString<'l>,
    descriptor: jint,
    offset: jlong,
    length: jlong,
) -> jboolean {
    enter(&mut env, |env| {
        let range = range(jlong::from(descriptor), offset, length);
        let (id, path) = (id.try_to_string(env)?, path.try_to_string(env)?);
        let range = range.map_err(|problem| Error::new(Code::InvalidArgument, problem.to_string()));
        give(env, guard(|| models(handle)?.place_range(&id, &path, range?)))
    })
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_verify<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
) -> jint {
    enter(&mut env, |env| {
        let id = id.try_to_string(env)?;
        give(env, guard(|| Ok(models(handle)?.verify(&id)?.len() as jint)))
    })
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "one call across the border")]
extern "system" fn Java_ai_knapsack_internal_Native_saveState<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    request: JString<'l>,
    when_full: jint,
    file: JString<'l>,
    cancel: jlong,
) {
    enter(&mut env, |env| {
        let (id, request, file) = (id.try_to_string(env)?, request.try_to_string(env)?, file.try_to_string(env)?);
        let saved = guard(|| {
            let when_full = context_policy(when_full as u32)?;
            models(handle)?.save_state(&id, &request, when_full, Path::new(&file), flag(cancel)?)
        });
        give(env, saved)
    })
}

#[unsafe(no_mangle)]
extern "system" fn Java_ai_knapsack_internal_Native_restoreState<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    file: JString<'l>,
    cancel: jlong,
) {
    enter(&mut env, |env| {
        let (id, file) = (id.try_to_string(env)?, file.try_to_string(env)?);
        give(env, guard(|| models(handle)?.restore_state(&id, Path::new(&file), flag(cancel)?)))
    })
}

/// Finish, tokens of the prompt, reused, generated, dropped messages, nanoseconds of prefill and of decoding, thinking tokens.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "one call across the border")]
extern "system" fn Java_ai_knapsack_internal_Native_answer<'l>(
    mut env: EnvUnowned<'l>,
    _: JClass<'l>,
    handle: jlong,
    id: JString<'l>,
    request: JString<'l>,
    when_full: jint,
    cancel: jlong,
    sink: JObject<'l>,
) -> JLongArray<'l> {
    enter(&mut env, |env| {
        let (id, request) = (id.try_to_string(env)?, request.try_to_string(env)?);
        let mut broken: Jni<()> = Ok(());
        let answered = guard(|| {
            let when_full = context_policy(when_full as u32)?;
            models(handle)?.answer(&id, &request, when_full, flag(cancel)?, &mut |piece| {
                go_on(&mut broken, || give_piece(env, &sink, &piece))
            })
        });
        broken?;
        match answered {
            Ok(answer) => {
                let stats = answer.stats;
                let numbers = [
                    answer.finish_number().into(),
                    stats.prompt_tokens as jlong,
                    stats.reused_tokens as jlong,
                    stats.generated_tokens as jlong,
                    stats.dropped_messages as jlong,
                    stats.prefill_time.as_nanos() as jlong,
                    stats.decode_time.as_nanos() as jlong,
                    stats.thinking_tokens as jlong,
                ];
                longs(env, &numbers)
            }
            Err(error) => give::<()>(env, Err(error)).map(|()| JLongArray::default()),
        }
    })
}

/// Gives a piece of an answer to a `PieceSink`.
fn give_piece(env: &mut Env<'_>, sink: &JObject<'_>, piece: &Piece<'_>) -> Jni<bool> {
    let (kind, text) = piece.parts();
    env.with_local_frame(4, |env| {
        let text = env.new_string(text)?;
        let values = [JValue::Int(kind as jint), JValue::Object(&text)];
        env.call_method(sink, jni_str!("piece"), jni_sig!("(ILjava/lang/String;)Z"), &values)?.z()
    })
}
