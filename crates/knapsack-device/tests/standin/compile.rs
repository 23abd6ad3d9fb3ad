//! clang: finding it, checking kernel sources with it, and making shared objects of them.

use super::{Order, Variant};
use knapsack_artifact::library::{KernelModule, Target};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// A clang with half precision on this machine.
pub(crate) struct Compiler {
    clang: String,
    version: String,
    /// Flags that newer versions need.
    half_flags: Vec<&'static str>,
}

const NAMES: [&str; 8] = ["clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang"];

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin")
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(log) }
}

impl Compiler {
    /// `None`, said aloud, where there is none; a failure then when `KNAPSACK_REQUIRE_CLANG=1`.
    pub(crate) fn find() -> Option<Self> {
        let found = NAMES.iter().find_map(|name| Compiler::probe(name));
        if found.is_none() {
            let required = std::env::var_os("KNAPSACK_REQUIRE_CLANG").is_some_and(|value| value == "1");
            assert!(!required, "KNAPSACK_REQUIRE_CLANG=1, but there is no clang with _Float16");
            eprintln!("SKIPPED: no clang with _Float16 (tried {NAMES:?})");
        }
        found
    }

    fn probe(name: &str) -> Option<Self> {
        let version = run(Command::new(name).arg("--version")).ok()?.lines().next()?.to_owned();
        let folder = tempfile::tempdir().ok()?;
        let file = folder.path().join("probe.cpp");
        std::fs::write(&file, "_Float16 twice(_Float16 x) { return x + x; }\n").ok()?;
        let compiles = |flags: &[&str]| {
            let mut command = Command::new(name);
            run(command.args(flags).args(["-c", "-o", "/dev/null"]).arg(&file)).is_ok()
        };
        // Every product in half precision, as GPUs compute; versions without the flag always do.
        let strict = ["-ffloat16-excess-precision=none"];
        let half_flags = if compiles(&strict) { strict.to_vec() } else { Vec::new() };
        compiles(&half_flags).then(|| Compiler { clang: name.to_owned(), version, half_flags })
    }

    pub(crate) fn name(&self) -> &str {
        &self.version
    }

    /// Compiles a module for a variant, or takes it from an earlier run.
    pub(crate) fn compile(&self, module: &KernelModule, variant: &Variant) -> Result<Program, String> {
        check_syntax(self, &module.source, variant)?;
        let source = declared(&module.source, variant.target)?;
        let glue = glue(module, variant.target)?;
        let object = self.cached_object(&source, &glue, variant)?;
        Program::open(&object, module)
    }

    fn cached_object(&self, source: &str, glue: &str, variant: &Variant) -> Result<PathBuf, String> {
        let mut hash = DefaultHasher::new();
        (source, glue, &self.version, &self.half_flags, switches(variant)).hash(&mut hash);
        RUNTIME.hash(&mut hash);
        for file in ["include/metal_stdlib", "include/opencl_builtins.h"] {
            std::fs::read(here().join(file)).map_err(|error| format!("{file}: {error}"))?.hash(&mut hash);
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let object = folder.join(format!("{:016x}.so", hash.finish()));
        if object.exists() {
            return Ok(object);
        }
        let work = tempfile::tempdir_in(&folder).map_err(|error| error.to_string())?;
        let write = |name: &str, text: &str| {
            let path = work.path().join(name);
            std::fs::write(&path, text).map_err(|error| error.to_string()).map(|()| path)
        };
        let common = ["-O1", "-fPIC", "-w"];
        let mut objects = Vec::new();
        let mut compile = |file: &Path, language: &[&str]| {
            let out = file.with_extension("o");
            let mut command = Command::new(&self.clang);
            command.args(common).args(language).args(native_flags()).args(switches(variant));
            run(command.arg("-I").arg(here().join("include")).arg("-c").arg(file).arg("-o").arg(&out))?;
            objects.push(out);
            Ok::<(), String>(())
        };
        match variant.target {
            Target::Metal => {
                let mut flags = vec!["-std=c++17"];
                flags.extend(&self.half_flags);
                compile(&write("kernels.cpp", &format!("{source}{glue}"))?, &flags)?;
            }
            _ => {
                compile(&write("kernels.cl", source)?, &OPENCL_FLAGS)?;
                compile(&write("glue.cpp", glue)?, &["-std=c++17"])?;
            }
        }
        objects.push(self.cached_runtime(&folder)?);
        let linked = work.path().join("kernels.so");
        run(Command::new(&self.clang).args(["-shared", "-o"]).arg(&linked).args(&objects).args(["-lstdc++", "-lm"]))?;
        knapsack_artifact::files::rename(&linked, &object).map_err(|error| error.to_string())?;
        Ok(object)
    }

    /// The runtime's object, the same for every module.
    fn cached_runtime(&self, folder: &Path) -> Result<PathBuf, String> {
        let mut hash = DefaultHasher::new();
        (RUNTIME, &self.version).hash(&mut hash);
        let object = folder.join(format!("runtime-{:016x}.o", hash.finish()));
        if !object.exists() {
            let text = |error: std::io::Error| error.to_string();
            let work = tempfile::tempdir_in(folder).map_err(text)?;
            let (source, built) = (work.path().join("runtime.cpp"), work.path().join("runtime.o"));
            std::fs::write(&source, RUNTIME).map_err(text)?;
            let mut command = Command::new(&self.clang);
            run(command.args(["-std=c++17", "-O2", "-fPIC", "-c"]).arg(&source).arg("-o").arg(&built))?;
            knapsack_artifact::files::rename(&built, &object).map_err(text)?;
        }
        Ok(object)
    }
}

const RUNTIME: &str = include_str!("runtime.cpp");

const OPENCL_FLAGS: [&str; 6] = ["-x", "cl", "-cl-std=CL1.2", "-cl-no-stdinc", "-include", "opencl_builtins.h"];

fn switches(variant: &Variant) -> [String; 5] {
    [
        format!("-DKNAPSACK_FP16={}", u8::from(variant.fp16)),
        format!("-DKNAPSACK_SUBGROUPS={}", u8::from(variant.subgroups)),
        format!("-DKNAPSACK_TILES={}", variant.tiles.switch()),
        format!("-DKNAPSACK_BUFFERS={}", 1 + u8::from(variant.fp16)),
        format!("-DKNAPSACK_IMAGES={}", u8::from(variant.images)),
    ]
}

/// Instructions for half precision conversions, where the machine has them.
fn native_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("f16c") && std::is_x86_feature_detected!("avx2") {
        return &["-mf16c", "-mavx2"];
    }
    &[]
}

/// Parses a source with real address spaces; the compiler's log is the error.
pub(super) fn check_syntax(compiler: &Compiler, source: &str, variant: &Variant) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (name, flags): (_, &[&str]) = match variant.target {
        Target::Metal => ("kernels.cpp", &["-std=c++17", "-DSTANDIN_CHECK", "-Wno-unknown-attributes"]),
        _ => ("kernels.cl", &OPENCL_FLAGS),
    };
    let file = work.path().join(name);
    std::fs::write(&file, declared(source, variant.target)?).map_err(|error| error.to_string())?;
    let mut command = Command::new(&compiler.clang);
    command.args(["-fsyntax-only", "-Wall", "-Wno-unused", "-Werror"]).args(flags).args(switches(variant));
    // A macro says everything about an extension that clang's target has no name for.
    command.args(["-Wno-unknown-pragmas", "-Wno-ignored-pragmas", "-Wno-pass-failed"]);
    run(command.arg("-I").arg(here().join("include")).arg(&file)).map(|_| ())
}

/// Metal declares local memory like any variable; here it is a static one, which the runtime poisons before each work group.
/// (OpenCL's is one to clang already, but cannot be given a section: it is not poisoned.)
fn declared(source: &str, target: Target) -> Result<String, String> {
    let (from, to) = match target {
        Target::Metal => ("name, count) threadgroup type name[count]", "name, count) STANDIN_LOCAL type name[count]"),
        _ => return Ok(source.to_owned()),
    };
    if !source.contains(from) {
        return Err("the source does not declare local memory as expected".to_owned());
    }
    Ok(source.replacen(from, to, 1))
}

/// `standin_kernel_<i>(buffers)` for each kernel, from the signatures in the source.
fn glue(module: &KernelModule, target: Target) -> Result<String, String> {
    let mut text = String::new();
    for (index, kernel) in module.kernels.iter().enumerate() {
        let start = format!("void {}(", kernel.name);
        let signature = module.source.split_once(&start).and_then(|(_, rest)| rest.split_once(") {"));
        let Some((parameters, _)) = signature else { return Err(format!("no signature of {}", kernel.name)) };
        let parameters: Vec<&str> = parameters.split(',').map(str::trim).collect();
        let (declaration, arguments) = match target {
            Target::Metal => (String::new(), metal_arguments(&parameters)?),
            _ => opencl_arguments(&kernel.name, &parameters),
        };
        text += &format!(
            "\n{declaration}extern \"C\" void standin_kernel_{index}(void** buffers) {{\n    \
             {}({arguments});\n}}\n",
            kernel.name
        );
    }
    Ok(text)
}

/// Arguments by their attributes: a wrong buffer index binds a wrong buffer, as on a GPU.
fn metal_arguments(parameters: &[&str]) -> Result<String, String> {
    let attribute = |parameter: &str| {
        let inside = parameter.split_once("[[").and_then(|(_, rest)| rest.split_once("]]"));
        inside.map(|(name, _)| name.to_owned()).ok_or_else(|| format!("no attribute on `{parameter}`"))
    };
    let mut arguments = Vec::new();
    for parameter in parameters {
        let attribute = attribute(parameter)?;
        arguments.push(match attribute.as_str() {
            "threadgroup_position_in_grid" => {
                "uint3{standin_group_id(0), standin_group_id(1), standin_group_id(2)}".to_owned()
            }
            "thread_index_in_threadgroup" => "standin_local_id()".to_owned(),
            slot => {
                let index = slot.strip_prefix("buffer(").and_then(|rest| rest.strip_suffix(')'));
                let index: usize = index.and_then(|index| index.parse().ok()).ok_or(format!("[[{slot}]]"))?;
                let (kind, _) = parameter.split_once('*').ok_or(format!("`{parameter}` is no buffer"))?;
                format!("({kind}*)buffers[{index}]")
            }
        });
    }
    Ok(arguments.join(", "))
}

fn opencl_arguments(name: &str, parameters: &[&str]) -> (String, String) {
    let types = vec!["void*"; parameters.len()].join(", ");
    let arguments: Vec<String> = (0..parameters.len()).map(|index| format!("buffers[{index}]")).collect();
    (format!("extern \"C\" void {name}({types});\n"), arguments.join(", "))
}

type Body = unsafe extern "C" fn(*mut *mut u8);
type Run = unsafe extern "C" fn(Body, *mut *mut u8, u32, *const u32, u32, u32) -> u32;

/// A loaded module.
pub(crate) struct Program {
    run: Run,
    bodies: Vec<Body>,
    /// Local memory and fibers are global to the object: one grid at a time.
    _library: libloading::Library,
}

/// One grid at a time in the process: tests on several threads may share a loaded object.
static RUNNING: Mutex<()> = Mutex::new(());

impl Program {
    fn open(object: &Path, module: &KernelModule) -> Result<Self, String> {
        let text = |error: libloading::Error| error.to_string();
        // SAFETY: the object was made here, from a source that the tests control; it has no initializers with effects.
        let library = unsafe { libloading::Library::new(object) }.map_err(text)?;
        // SAFETY: `runtime.cpp` and the glue give these symbols these types.
        unsafe {
            let run = *library.get::<Run>(b"standin_run\0").map_err(text)?;
            let body = |index: usize| {
                let name = format!("standin_kernel_{index}\0");
                library.get::<Body>(name.as_bytes()).map(|symbol| *symbol).map_err(text)
            };
            let bodies = (0..module.kernels.len()).map(body).collect::<Result<_, _>>()?;
            Ok(Program { run, bodies, _library: library })
        }
    }

    /// Runs a grid; what the threads did wrong is the error.
    pub(crate) fn run(
        &self,
        kernel: u32,
        buffers: &mut [*mut u8],
        threads: u32,
        groups: [u32; 3],
        variant: &Variant,
    ) -> Result<(), String> {
        let order = match variant.order {
            Order::Forward => 0,
            Order::Reverse => 1,
            Order::Shuffled => 2 + kernel,
        };
        let body = self.bodies[kernel as usize];
        let _one = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: the pointers are to guarded copies of what the kernel's launch binds; groups are three.
        let code =
            unsafe { (self.run)(body, buffers.as_mut_ptr(), threads, groups.as_ptr(), variant.subgroup_size, order) };
        let line = |code: u32| if code == 0xffff { "the end".to_owned() } else { format!("line {code}") };
        match code {
            0 => Ok(()),
            u32::MAX => Err("a thread read beyond an image".to_owned()),
            _ => Err(format!("threads that belong together wait at {} and {}", line(code & 0xffff), line(code >> 16))),
        }
    }
}
