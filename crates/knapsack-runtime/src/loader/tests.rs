use super::*;
use crate::manager::{Acquire, Manager, ManagerError};
use crate::package::{FindFiles, FindLibrary};
use crate::text::{Message, Role};
use crate::{GenerateOptions, SamplingOptions};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::app_config::AppConfig;
use knapsack_artifact::library::Target;
use knapsack_compiler::{CompileRequest, compile};
use knapsack_device::{FakeDevice, FileRange, Scattered};
use knapsack_models::ModelConfig;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Duration;

const ID: &str = "model";

fn folder() -> PathBuf {
    knapsack_testkit::mlc_fixture("llama", "q4f16_1")
}

fn library() -> ModelLibrary {
    let chat = std::fs::read(folder().join("mlc-chat-config.json")).unwrap();
    let config = ModelConfig::from_mlc(&serde_json::from_slice(&chat).unwrap()).unwrap();
    let windows = config.own_windows();
    let graph = config.graph(&"q4f16_1".parse().unwrap(), &windows).unwrap();
    compile(&CompileRequest { graph: &graph, windows, target: Target::Host, name: None }).unwrap()
}

/// A package whose one model's files are found by `find_files`.
fn package(find_files: FindFiles) -> Package {
    let config = serde_json::json!({
        "model_list": [{ "model_id": ID, "model_lib": "lib", "model_path": "models/m", "estimated_vram_bytes": 1 }],
    });
    let config = AppConfig::decode(config.to_string().as_bytes()).unwrap();
    let find_library: FindLibrary = Box::new(|_| Ok(library()));
    Package::with_files("app.apk!/assets", config, find_files, find_library)
}

fn in_folder() -> Package {
    package(Box::new(|_| Ok(Arc::new(Folder::new(folder())))))
}

fn answer(loader: PackageLoader) -> String {
    let manager = Manager::new(loader, u64::MAX, None);
    let handle = manager.acquire(ID, &Acquire::default()).unwrap();
    let options = GenerateOptions { max_tokens: Some(4), ..GenerateOptions::new(SamplingOptions::GREEDY) };
    let messages = [Message::new(Role::User, "Hi")];
    let answer = handle.lock().answer(&messages, &options, &CancelFlag::new(), &mut |_| ()).unwrap();
    answer.text
}

/// All files one behind the other in one file, each at a multiple of four bytes, as an Android package stores them.
#[test]
fn a_model_inside_another_file_is_used_where_it_lies() {
    let place = tempfile::tempdir().unwrap();
    let apk = place.path().join("app.apk");
    let (mut bytes, mut found) = (b"PK__".to_vec(), Vec::new());
    for entry in std::fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        let content = std::fs::read(entry.path()).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        found.push((entry.file_name().into_string().unwrap(), bytes.len() as u64, content.len() as u64));
        bytes.extend(content);
    }
    std::fs::write(&apk, bytes).unwrap();
    let find: FindFiles = Box::new(move |path| {
        if path != "models/m" {
            return Err(ErrorKind::NotFound.into());
        }
        let range = |(name, offset, length): &(String, u64, u64)| {
            Ok((name.clone(), FileRange::new(File::open(&apk)?, *offset, *length)?.into()))
        };
        let ranges = found.iter().map(range).collect::<std::io::Result<_>>()?;
        Ok(Arc::new(Scattered::new("app.apk!/assets/models/m", ranges)))
    });
    let device = || Box::new(FakeDevice::new(u64::MAX));
    let inside = answer(PackageLoader::new(package(find), device(), None));
    assert_eq!(inside, answer(PackageLoader::new(in_folder(), device(), None)));
    let lost: FindFiles = Box::new(|_| Ok(Arc::new(Scattered::new("app.apk!/assets/models/m", Default::default()))));
    let manager = Manager::new(PackageLoader::new(package(lost), device(), None), u64::MAX, None);
    let error = manager.acquire(ID, &Acquire::default()).err().unwrap();
    let ManagerError::Load { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("app.apk!/assets/models/m"), "{source}");
}

#[test]
fn a_load_is_cancelled_between_files_and_leaves_nothing() {
    let device = FakeDevice::new(u64::MAX);
    let cancel = CancelFlag::new();
    let raised = Mutex::new(0.0f32);
    let loader = PackageLoader::new(in_folder(), Box::new(device.clone()), None);
    // Raised when the load begins: nothing is mapped any more.
    let progress = |fraction: f32| {
        *raised.lock().unwrap() = fraction;
        cancel.cancel();
    };
    let error = loader.load(ID, &progress, &cancel).err().unwrap();
    assert!(error.is::<Cancelled>(), "{error}");
    assert!(*raised.lock().unwrap() < 1.0);
    assert_eq!((device.allocated(), device.allocations()), (0, 0));
    assert!(loader.load(ID, &|_| (), &CancelFlag::new()).is_ok());
}

#[test]
fn a_load_waits_for_the_end_of_a_pause() {
    let loader = PackageLoader::new(in_folder(), Box::new(FakeDevice::new(u64::MAX)), None);
    loader.activity().pause();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| loader.load(ID, &|_| (), &CancelFlag::new()).map(drop));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!loading.is_finished());
        loader.activity().resume();
        loading.join().unwrap().unwrap();
    });
    loader.activity().pause();
    let cancel = CancelFlag::new();
    cancel.cancel();
    assert!(loader.load(ID, &|_| (), &cancel).err().unwrap().is::<Cancelled>());
}
