//! Compiling kernels ahead, against an `xcrun` that records its command lines and writes what it is told to.
#![cfg(unix)]

use knapsack_artifact::ModelLibrary;
use knapsack_artifact::device::AppleSlice;
use knapsack_artifact::library::{Target, Tiles};
use knapsack_compiler::codegen::emit;
use knapsack_compiler::codegen::metallib::{MetalToolchain, MetallibError};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

mod support;

/// A file that is open for writing cannot be executed, and a child that one test starts holds what another has open: one at a
/// time.
static ONE: Mutex<()> = Mutex::new(());

/// An `xcrun` that logs its arguments and then runs `body`, in which `$out` is the output file.
fn fake_xcrun(folder: &Path, body: &str) {
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> '{0}/log'\nfor word; do case \"$word\" in *.metallib) out=\"$word\";; esac; done\n\
         [ \"$3\" = -find ] && exec true\n{body}\n",
        folder.display()
    );
    let file = folder.join("xcrun");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn metal_library() -> ModelLibrary {
    let mut library = support::llama(32);
    emit(&mut library, Target::Metal).unwrap();
    library
}

#[test]
fn every_slice_is_compiled_with_its_own_command_line() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    fake_xcrun(folder.path(), "printf 'MTLB %s' \"$2\" > \"$out\"");
    let toolchain = MetalToolchain::find(Some(folder.path().as_os_str())).unwrap();
    let mut library = metal_library();
    toolchain.precompile(&mut library, &AppleSlice::ALL, folder.path()).unwrap();
    let module = library.kernels.as_ref().unwrap();
    let built: Vec<_> =
        module.metallibs.iter().map(|lib| (lib.platform.as_str(), lib.tiles, lib.data.as_slice())).collect();
    let slices =
        [("ios", &b"MTLB iphoneos"[..]), ("ios-simulator", b"MTLB iphonesimulator"), ("macabi", b"MTLB macosx")];
    let both = slices.map(|(name, data)| [Tiles::Matrices, Tiles::Local].map(|tiles| (name, tiles, data)));
    assert_eq!(built, both.concat());
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    insta::assert_snapshot!(log.replace(folder.path().to_str().unwrap(), "<folder>"), @r"
    -sdk iphoneos -find metal
    -sdk iphoneos metal -target air64-apple-ios15.0 -O2 -DKNAPSACK_FP16=1 -DKNAPSACK_SUBGROUPS=1 -DKNAPSACK_TILES=2 <folder>/kernels.metal -o <folder>/kernels-ios-2.metallib
    -sdk iphoneos metal -target air64-apple-ios15.0 -O2 -DKNAPSACK_FP16=1 -DKNAPSACK_SUBGROUPS=1 -DKNAPSACK_TILES=0 <folder>/kernels.metal -o <folder>/kernels-ios-0.metallib
    -sdk iphonesimulator metal -target air64-apple-ios15.0-simulator -O2 -DKNAPSACK_FP16=1 -DKNAPSACK_SUBGROUPS=1 -DKNAPSACK_TILES=2 <folder>/kernels.metal -o <folder>/kernels-ios-simulator-2.metallib
    -sdk iphonesimulator metal -target air64-apple-ios15.0-simulator -O2 -DKNAPSACK_FP16=1 -DKNAPSACK_SUBGROUPS=1 -DKNAPSACK_TILES=0 <folder>/kernels.metal -o <folder>/kernels-ios-simulator-0.metallib
    -sdk macosx metal -target air64-apple-ios15.0-macabi -O2 -DKNAPSACK_FP16=1 -DKNAPSACK_SUBGROUPS=1 -DKNAPSACK_TILES=2 <folder>/kernels.metal -o <folder>/kernels-macabi-2.metallib
    -sdk macosx metal -target air64-apple-ios15.0-macabi -O2 -DKNAPSACK_FP16=1 -DKNAPSACK_SUBGROUPS=1 -DKNAPSACK_TILES=0 <folder>/kernels.metal -o <folder>/kernels-macabi-0.metallib
    ");
    assert_eq!(std::fs::read_to_string(folder.path().join("kernels.metal")).unwrap(), module.source);
}

#[test]
fn what_the_compiler_says_is_in_the_error() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut library = metal_library();
    let before = library.clone();
    let mut compiled_by = |body: &str| {
        fake_xcrun(folder.path(), body);
        let toolchain = MetalToolchain::find(Some(folder.path().as_os_str())).unwrap();
        let error = toolchain.precompile(&mut library, &[AppleSlice::DEVICE], folder.path()).unwrap_err();
        assert_eq!(library, before);
        error
    };
    let error = compiled_by("echo 'kernels.metal:7: error: no' >&2; exit 1");
    assert!(matches!(&error, MetallibError::Compiler { log, .. } if log.contains("metal:7: error")), "{error}");
    assert!(matches!(compiled_by("true"), MetallibError::Io { .. }));
    assert!(matches!(compiled_by("echo text > \"$out\""), MetallibError::NoLibrary { .. }));
}

#[test]
fn other_libraries_and_machines_have_nothing_to_compile() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    assert!(MetalToolchain::find(None).is_none());
    assert!(MetalToolchain::find(Some(folder.path().as_os_str())).is_none());
    fake_xcrun(folder.path(), "true");
    let toolchain = MetalToolchain::find(Some(folder.path().as_os_str())).unwrap();
    let mut library = support::llama(32);
    for target in [Target::Host, Target::OpenCl] {
        emit(&mut library, target).unwrap();
        let error = toolchain.precompile(&mut library, &AppleSlice::ALL, folder.path()).unwrap_err();
        assert!(matches!(error, MetallibError::NoKernels));
    }
}
