//! Files are checked by the independent reader of `object`, and by linkers and loaders where they are installed. Those that
//! are not are named on stderr; with `KNAPSACK_REQUIRE_LLVM=1` the absence of LLVM's fails.

use super::*;
use crate::testing::library;
use knapsack_artifact::container;
use knapsack_artifact::device::{Abi, AppleSlice};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Object, ObjectSection, ObjectSymbol, elf};
use std::path::Path;
use std::process::Command;

fn samples() -> Vec<Library> {
    ["llama_q4f16_1", "qwen3_q0f16", "a", "phi3-v_q4f16_1", "gemma2.x"]
        .into_iter()
        .zip(1..)
        .map(|(n, c)| library(n, c))
        .collect()
}

#[test]
fn every_format_reads_back() {
    let libraries = samples();
    for slice in AppleSlice::ALL {
        let count = slice.architectures.len();
        let bytes = archive(slice, &libraries).unwrap();
        assert_eq!(verify(&bytes, &libraries, count).unwrap(), Ok(()));
        assert_eq!(bytes, archive(slice, &libraries).unwrap(), "not deterministic");
        let names: Vec<_> = container::libraries(&bytes).unwrap().into_iter().map(|c| c.slice.to_string()).collect();
        assert!(names.iter().all(|name| name.ends_with(slice.name)), "{names:?}");
        assert_eq!(names.iter().any(|name| name.contains("x86_64")), count == 2);
    }
    for abi in Abi::ALL {
        let bytes = shared_library(abi, &libraries).unwrap();
        assert_eq!(verify(&bytes, &libraries, 1).unwrap(), Ok(()));
        assert_eq!(bytes, shared_library(abi, &libraries).unwrap(), "not deterministic");
    }
    let blob = libraries[0].blob().to_vec();
    assert_eq!(verify(&blob, &libraries[..1], 1).unwrap(), Ok(()));
    assert_eq!(Library::from_blob(&blob).unwrap().name(), "llama_q4f16_1");
}

#[test]
fn order_and_repetition_do_not_matter() {
    let (mut libraries, once) = (samples(), samples());
    libraries.reverse();
    libraries.push(libraries[0].clone());
    assert_eq!(archive(AppleSlice::DEVICE, &libraries).unwrap(), archive(AppleSlice::DEVICE, &once).unwrap());
    assert_eq!(shared_library(Abi::X86_64, &libraries).unwrap(), shared_library(Abi::X86_64, &once).unwrap());
}

#[test]
fn two_libraries_of_one_name_are_refused() {
    let clash = [library("same", 1), library("same", 2)];
    assert!(matches!(archive(AppleSlice::DEVICE, &clash), Err(BundleError::LibraryClash { .. })));
    assert!(matches!(shared_library(Abi::X86_64, &clash), Err(BundleError::LibraryClash { .. })));
}

#[test]
fn verification_notices_what_is_wrong() {
    let libraries = samples();
    let bytes = archive(AppleSlice::SIMULATOR, &libraries).unwrap();
    assert!(verify(&bytes, &libraries, 1).unwrap().is_err());
    assert!(verify(&bytes, &libraries[1..], 2).unwrap().is_err());
    let other = [library("llama_q4f16_1", 9)];
    assert!(verify(&archive(AppleSlice::DEVICE, &other).unwrap(), &libraries[..1], 1).unwrap().is_err());
    // One flipped bit in each kilobyte: never accepted as the same, never a panic.
    for at in (0..bytes.len()).step_by(1024) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let _ = verify(&damaged, &libraries, 2);
    }
    let so = shared_library(Abi::ARM64, &libraries).unwrap();
    for cut in (0..so.len()).step_by(257) {
        let _ = verify(&so[..cut], &libraries, 1);
    }
    let at = so.windows(8).position(|window| window == knapsack_artifact::library::MAGIC).unwrap();
    let mut damaged = so;
    damaged[at + knapsack_artifact::library::HEADER_BYTES + 3] ^= 1;
    assert!(verify(&damaged, &libraries, 1).is_err());
}

/// The rules of Google Play for 16 KiB pages, and no executable memory.
#[test]
fn shared_libraries_map_on_16_kib_pages() {
    for abi in Abi::ALL {
        let bytes = shared_library(abi, &samples()).unwrap();
        let file = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
        let endian = file.endian();
        let mut kinds = Vec::new();
        for header in file.elf_program_headers() {
            let (start, size) = (header.p_vaddr(endian), header.p_memsz(endian));
            kinds.push(header.p_type(endian));
            assert!((header.p_flags(endian) & elf::PF_X).0 == 0, "executable");
            if header.p_type(endian) == elf::PT_LOAD {
                assert!(header.p_align(endian) >= 16384 && header.p_offset(endian) % 16384 == start % 16384);
            }
            if header.p_type(endian) == elf::PT_GNU_RELRO {
                assert_eq!((start % 16384, (start + size) % 16384), (0, 0));
            }
        }
        for kind in [elf::PT_LOAD, elf::PT_DYNAMIC, elf::PT_GNU_RELRO, elf::PT_NOTE, elf::PT_GNU_STACK] {
            assert!(kinds.contains(&kind), "no segment of type {kind:?}");
        }
        assert_eq!(file.build_id().unwrap().map(<[u8]>::len), Some(20));
        for symbol in file.dynamic_symbols() {
            let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
            assert_eq!(section.name().unwrap(), ".rodata");
            assert!(symbol.is_global() && symbol.address() % 16 == 0 && symbol.size() > 0);
        }
        assert_eq!(file.dynamic_symbols().count(), samples().len() + 1);
    }
}

#[test]
fn the_framework_says_which_slice_is_for_what() {
    let slices = AppleSlice::ALL;
    let files = xcframework(&slices, &samples()).unwrap();
    let info: plist::Value = plist::from_bytes(&files[0].1).unwrap();
    let info = info.as_dictionary().unwrap();
    assert_eq!(info["CFBundlePackageType"].as_string(), Some("XFWK"));
    for entry in info["AvailableLibraries"].as_array().unwrap() {
        let entry = entry.as_dictionary().unwrap();
        let text = |key: &str| entry[key].as_string().unwrap();
        let path = format!("{}/{}", text("LibraryIdentifier"), text("LibraryPath"));
        let bytes = &files.iter().find(|(name, _)| *name == path).unwrap().1;
        let arches: Vec<_> =
            entry["SupportedArchitectures"].as_array().unwrap().iter().map(|a| a.as_string().unwrap()).collect();
        for contained in container::libraries(bytes).unwrap() {
            assert!(arches.contains(&&*contained.slice.architecture));
            let variant = entry.get("SupportedPlatformVariant").and_then(plist::Value::as_string);
            let slice = AppleSlice::ALL.into_iter().find(|slice| slice.variant == variant).unwrap();
            assert_eq!(contained.slice.platform, Some(slice.name));
        }
    }
    assert_eq!(files.len(), 4);
    assert!(files[2].0.starts_with("ios-arm64_x86_64-simulator/"));
}

/// The first of `names` that runs, or a note on stderr (an error when tools are required).
fn tool(names: &[&str]) -> Option<String> {
    let found =
        names.iter().find(|name| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success()));
    if found.is_none() {
        let wanted = |kind: &str, tools: &[&str]| {
            std::env::var_os(kind).is_some() && names.iter().any(|name| tools.contains(name))
        };
        let llvm = wanted("KNAPSACK_REQUIRE_LLVM", &["llvm-nm", "ld.lld", "ld64.lld"]);
        let required = llvm || wanted("KNAPSACK_REQUIRE_CLANG", &["clang"]);
        assert!(!required, "none of {names:?} is installed");
        eprintln!("SKIPPED: none of {names:?} is installed");
    }
    found.map(ToString::to_string)
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{command:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

const CLANG: &[&str] = &["clang", "clang-22", "clang-19", "clang-16", "clang-15", "clang-14"];
const LLD: &[&str] = &["ld64.lld", "ld64.lld-22", "ld64.lld-19", "ld64.lld-16", "ld64.lld-15", "ld64.lld-14"];

/// Every Apple target of an archive: the clang triple, and the platform as linkers name it.
const APPLE_TARGETS: [(AppleSlice, &str, &str); 5] = [
    (AppleSlice::DEVICE, "arm64-apple-ios15.0", "ios"),
    (AppleSlice::SIMULATOR, "arm64-apple-ios15.0-simulator", "ios-simulator"),
    (AppleSlice::SIMULATOR, "x86_64-apple-ios15.0-simulator", "ios-simulator"),
    (AppleSlice::CATALYST, "arm64-apple-ios15.0-macabi", "mac-catalyst"),
    (AppleSlice::CATALYST, "x86_64-apple-ios15.0-macabi", "mac-catalyst"),
];

/// What a package's code does with its libraries: it names the table.
const APP: &str = "extern const unsigned char knapsack_model_table[];\n\
                   const void *find(void) { return knapsack_model_table; }\n\
                   int main(void) { return *(const unsigned char *)find(); }\n";

/// An app that was linked for one target against `archives`, or what the linker said against it.
struct AppleLink {
    folder: tempfile::TempDir,
    clang: String,
    lld: String,
}

impl AppleLink {
    fn new() -> Option<Self> {
        let (Some(lld), Some(clang)) = (tool(LLD), tool(CLANG)) else { return None };
        Some(Self { folder: tempfile::tempdir().unwrap(), clang, lld })
    }

    fn link(&self, triple: &str, platform: &str, archives: &[&Path], flags: &[&str]) -> Result<Vec<u8>, String> {
        let path = |name: &str| self.folder.path().join(name);
        let arch = triple.split('-').next().unwrap();
        let tbd = format!("{arch}-{}", platform.replace("mac-", "mac"));
        let stub = format!(
            "--- !tapi-tbd\ntbd-version: 4\ntargets: [ {tbd} ]\ninstall-name: '/usr/lib/libSystem.B.dylib'\n\
             exports:\n  - targets: [ {tbd} ]\n    symbols: [ dyld_stub_binder ]\n...\n"
        );
        std::fs::write(path("libSystem.tbd"), stub).unwrap();
        std::fs::write(path("app.c"), APP).unwrap();
        run(Command::new(&self.clang)
            .args(["-target", triple, "-O1", "-c", "-o"])
            .arg(path("app.o"))
            .arg(path("app.c")));
        let out = Command::new(&self.lld)
            .args(["-arch", arch, "-platform_version", platform, "15.0", "18.0", "-dead_strip"])
            .args(flags)
            .arg("-o")
            .arg(path("App"))
            .arg(path("app.o"))
            .args(archives)
            .arg(path("libSystem.tbd"))
            .output()
            .unwrap();
        match out.status.success() {
            true => Ok(std::fs::read(path("App")).unwrap()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }
}

/// The table of a linked image, which holds exactly `libraries`.
fn assert_table(linked: &[u8], libraries: &[Library], place: &str) {
    let tables = container::tables(linked).unwrap();
    let [(_, table)] = &tables[..] else { panic!("{place}: {} tables", tables.len()) };
    let mut expected: Vec<_> = libraries.iter().map(|library| (library.name(), library.blob())).collect();
    expected.sort_unstable();
    assert_eq!(table.libraries(), expected, "{place}");
}

/// No `-all_load`, no `-force_load`: everything unused is stripped, and in a release nothing is exported.
#[test]
fn apples_linker_of_llvm_keeps_the_table_because_the_app_names_it() {
    let Some(link) = AppleLink::new() else { return };
    let libraries = samples();
    let path = link.folder.path().join("libKnapsackModels.a");
    for (slice, triple, platform) in APPLE_TARGETS {
        std::fs::write(&path, archive(slice, &libraries).unwrap()).unwrap();
        for flags in [&[][..], &["-exported_symbol", "_main"], &["-exported_symbol", "_main", "-S", "-x"], &["-dylib"]]
        {
            let place = format!("{triple} {flags:?}");
            let linked =
                link.link(triple, platform, &[&path], flags).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_table(&linked, &libraries, &place);
            // Where symbols are stripped the libraries are found through the table.
            let names = container::libraries(&linked).unwrap();
            assert_eq!(names.len(), libraries.len(), "{place}");
            assert!(names.iter().all(|contained| contained.decode().is_ok()), "{place}");
        }
    }
}

#[test]
fn an_app_that_forgot_its_models_does_not_link() {
    let Some(link) = AppleLink::new() else { return };
    for (_, triple, platform) in APPLE_TARGETS {
        let error = link.link(triple, platform, &[], &[]).unwrap_err();
        assert!(error.contains("undefined symbol: _knapsack_model_table"), "{triple}: {error}");
    }
}

/// MLC's apps name a library by its own symbol, or take everything there is: both still find every byte.
#[test]
fn each_library_keeps_its_own_symbol() {
    let (Some(link), Some(nm)) = (AppleLink::new(), tool(&["llvm-nm", "llvm-nm-14"])) else { return };
    let libraries = samples();
    let path = link.folder.path().join("libmodel_iphone.a");
    std::fs::write(&path, archive(AppleSlice::DEVICE, &libraries).unwrap()).unwrap();
    let symbols = run(Command::new(&nm).arg(&path));
    for library in &libraries {
        assert!(symbols.contains(&format!("_{}", ModelLibrary::symbol(library.name()))), "{symbols}");
    }
    let one = format!("_{}", ModelLibrary::symbol(libraries[0].name()));
    for flags in [&["-dylib", "-all_load"][..], &["-dylib", "-u", &one]] {
        let linked = link.link("arm64-apple-ios15.0", "ios", &[&path], flags).unwrap();
        assert_eq!(verify(&linked, &libraries, 1).unwrap(), Ok(()), "{flags:?}");
    }
}

/// Loads the file with the system's loader, looks up every symbol and prints the bytes behind it.
#[cfg(target_os = "linux")]
const LOADER: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *bytes = dlsym(library, argv[i]);
        if (!bytes) { fprintf(stderr, "%s\n", dlerror()); return 2; }
        fwrite(bytes, 1, strtoul(argv[i + 1], 0, 10), stdout);
    }
    return 0;
}
"#;

/// Asks [`LOADER`] for every symbol; returns what it should print.
#[cfg(target_os = "linux")]
fn everything(libraries: &[Library], command: &mut Command) -> Vec<u8> {
    let table = model_table(libraries).unwrap();
    let mut expected = Vec::new();
    for export in &table.exports {
        command.arg(&export.symbol).arg(export.bytes.to_string());
        expected.extend_from_slice(&table.bytes[export.offset as usize..][..export.bytes as usize]);
    }
    expected
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn the_systems_loader_finds_every_symbol() {
    let Some(cc) = tool(&["cc", "gcc", "clang"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (source, program, so) =
        (folder.path().join("load.c"), folder.path().join("load"), folder.path().join("libmodel_android.so"));
    std::fs::write(&source, LOADER).unwrap();
    run(Command::new(cc).arg("-o").arg(&program).arg(&source).arg("-ldl"));
    let libraries = samples();
    let abi = if cfg!(target_arch = "x86_64") { Abi::X86_64 } else { Abi::ARM64 };
    std::fs::write(&so, shared_library(abi, &libraries).unwrap()).unwrap();
    let mut command = Command::new(&program);
    command.arg(&so);
    let expected = everything(&libraries, &mut command);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout == expected);
}

/// The phone's architecture, emulated, with the pages of older and of newer phones.
#[cfg(target_os = "linux")]
#[test]
fn an_emulated_arm64_loader_finds_every_symbol_on_4_and_16_kib_pages() {
    let (Some(cc), Some(qemu)) = (tool(&["aarch64-linux-gnu-gcc"]), tool(&["qemu-aarch64", "qemu-aarch64-static"]))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (source, program, so) =
        (folder.path().join("load.c"), folder.path().join("load"), folder.path().join("libmodel_android.so"));
    std::fs::write(&source, LOADER).unwrap();
    run(Command::new(cc).arg("-o").arg(&program).arg(&source).arg("-ldl"));
    let libraries = samples();
    std::fs::write(&so, shared_library(Abi::ARM64, &libraries).unwrap()).unwrap();
    for page in ["4096", "16384"] {
        let mut command = Command::new(&qemu);
        command.args(["-p", page, "-L", "/usr/aarch64-linux-gnu"]).arg(&program).arg(&so);
        let expected = everything(&libraries, &mut command);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{page}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stdout == expected, "{page}");
    }
}

/// A linker that resolves against the shared library checks hash tables, symbols and SONAME in its own way.
#[test]
fn a_linker_accepts_the_shared_libraries() {
    let (Some(lld), Some(readelf)) = (tool(&["ld.lld", "ld.lld-22", "ld.lld-19", "ld.lld-14"]), tool(&["readelf"]))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for abi in Abi::ALL {
        let so = folder.path().join(format!("{}.so", abi.name));
        std::fs::write(&so, shared_library(abi, &samples()).unwrap()).unwrap();
        let user = folder.path().join("user.so");
        run(Command::new(&lld).args(["-shared", "-z", "max-page-size=16384", "-o"]).arg(&user).arg(&so));
        assert!(run(Command::new(&readelf).arg("-d").arg(&user)).contains("[libmodel_android.so]"));
        let report = Command::new(&readelf).arg("-aW").arg(&so).output().unwrap();
        assert!(report.stderr.is_empty(), "{}", String::from_utf8_lossy(&report.stderr));
        assert_eq!(
            run(Command::new(&readelf).arg("-W").arg("--dyn-syms").arg(&so)).matches("OBJECT  GLOBAL").count(),
            6
        );
    }
}

/// An Android library that names the table: linked without undefined symbols, it needs `libmodel_android.so`; without it, it does
/// not link. A restricted export list changes nothing, because the table stays in a file of its own.
#[test]
fn an_android_library_that_names_the_table_needs_the_models() {
    let (Some(lld), Some(clang), Some(readelf)) =
        (tool(&["ld.lld", "ld.lld-22", "ld.lld-19", "ld.lld-14"]), tool(CLANG), tool(&["readelf"]))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("app.c"), APP).unwrap();
    std::fs::write(path("exports"), "{ global: main; local: *; };").unwrap();
    for (abi, triple) in [(Abi::ARM64, "aarch64-linux-android26"), (Abi::X86_64, "x86_64-linux-android26")] {
        run(Command::new(&clang).args(["-target", triple, "-fPIC", "-c", "-o"]).arg(path("app.o")).arg(path("app.c")));
        let so = path("libmodel_android.so");
        std::fs::write(&so, shared_library(abi, &samples()).unwrap()).unwrap();
        let link = |models: &[&Path]| {
            let mut command = Command::new(&lld);
            command
                .args(["-shared", "-z", "defs", "--gc-sections", "--as-needed", "--version-script"])
                .arg(path("exports"));
            command.arg("-o").arg(path("app.so")).arg(path("app.o")).args(models).output().unwrap()
        };
        let linked = link(&[&so]);
        assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
        assert!(run(Command::new(&readelf).arg("-d").arg(path("app.so"))).contains("[libmodel_android.so]"));
        let forgotten = String::from_utf8(link(&[]).stderr).unwrap();
        assert!(forgotten.contains("undefined symbol: knapsack_model_table"), "{forgotten}");
    }
}
