//! Kernels as text: arguments, macros, signatures of both languages, and the module that holds each distinct kernel once.

use super::{grouped, parameter};
use knapsack_artifact::ModelLibrary;
use knapsack_artifact::library::{Kernel, KernelModule, Target};
use knapsack_artifact::plan::{Groups, KernelCall, ParameterId, Then};
use knapsack_tensor::{DType, Grouping};
use std::collections::HashMap;
use std::fmt::{Display, Write as _};

const OPENCL_PRELUDE: &str = include_str!("kernels/opencl.prelude");
const METAL_PRELUDE: &str = include_str!("kernels/metal.prelude");
const COMMON: &str = include_str!("kernels/common.kernel");

/// One of the kernel sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Template {
    Embed,
    Norm,
    AddNorm,
    MatvecRows,
    MatvecColumns,
    Gemm,
    RopeAppend,
    AttentionDecode,
    AttentionMerge,
    AttentionPrefill,
    CausalConv,
    GatedDelta,
    RopeQuery,
    Select,
    Top,
}

impl Template {
    const fn name(self) -> &'static str {
        match self {
            Template::Embed => "embed",
            Template::Norm => "norm",
            Template::AddNorm => "add_norm",
            Template::MatvecRows => "matvec_rows",
            Template::MatvecColumns => "matvec_columns",
            Template::Gemm => "gemm",
            Template::RopeAppend => "rope_append",
            Template::AttentionDecode => "attention_decode",
            Template::AttentionMerge => "attention_merge",
            Template::AttentionPrefill => "attention_prefill",
            Template::CausalConv => "causal_conv",
            Template::GatedDelta => "gated_delta",
            Template::RopeQuery => "rope_query",
            Template::Select => "select",
            Template::Top => "top",
        }
    }

    const fn source(self) -> &'static str {
        match self {
            Template::Embed => include_str!("kernels/embed.kernel"),
            Template::Norm => include_str!("kernels/norm.kernel"),
            Template::AddNorm => include_str!("kernels/add_norm.kernel"),
            Template::MatvecRows => include_str!("kernels/matvec_rows.kernel"),
            Template::MatvecColumns => include_str!("kernels/matvec_columns.kernel"),
            Template::Gemm => include_str!("kernels/gemm.kernel"),
            Template::RopeAppend => include_str!("kernels/rope_append.kernel"),
            Template::AttentionDecode => include_str!("kernels/attention_decode.kernel"),
            Template::AttentionMerge => include_str!("kernels/attention_merge.kernel"),
            Template::AttentionPrefill => include_str!("kernels/attention_prefill.kernel"),
            Template::CausalConv => include_str!("kernels/causal_conv.kernel"),
            Template::GatedDelta => include_str!("kernels/gated_delta.kernel"),
            Template::RopeQuery => include_str!("kernels/rope_query.kernel"),
            Template::Select => include_str!("kernels/select.kernel"),
            Template::Top => include_str!("kernels/top.kernel"),
        }
    }
}

/// Most launches that one kernel executes: the three projections of attention, or the four of a delta rule.
pub(super) const MOST_TOGETHER: usize = 4;
/// Macros that may differ between linear layers that go together.
const SIZES: [&str; 2] = ["OUT_FEATURES", "OUT_COLUMNS"];

/// A buffer argument; its place in the list is the operand's place in [`knapsack_artifact::plan::Op::operands`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Argument {
    pub(super) name: String,
    pub(super) element: &'static str,
    pub(super) writable: bool,
    /// Packed codes that are only read 16 bytes at once: an image where a device reads them so.
    pub(super) words: bool,
}

/// What a work group reads, in bytes; what the launch as a whole reads follows from its grid. See [`super::traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupReads {
    /// Of parameters.
    pub(super) weights: u64,
    /// Of activations.
    pub(super) inputs: u64,
}

/// A kernel for a launch: a template, the macros that fix its shapes, its arguments and its grid.
#[derive(Clone, Debug)]
pub(super) struct Specialization {
    pub(super) template: Template,
    /// One line for readers.
    pub(super) summary: String,
    pub(super) defines: Vec<(String, String)>,
    /// Whose [`grouped::functions`] it calls.
    pub(super) grouping: Option<Grouping>,
    pub(super) arguments: Vec<Argument>,
    pub(super) threads: u32,
    pub(super) groups: [Groups; 3],
    pub(super) reads: GroupReads,
    /// A kernel with the same arguments that comes after it.
    pub(super) then: Option<Box<Specialization>>,
}

/// The name of a launch's scratch in a kernel.
const SCRATCH: &str = "parts";

/// A grid axis that does not depend on the tokens.
pub(super) const fn fixed(count: u32) -> Groups {
    Groups { count, tokens_per_group: 0 }
}

/// A grid axis with a group for every `tokens` tokens.
pub(super) const fn per_tokens(tokens: u32) -> Groups {
    Groups { count: 1, tokens_per_group: tokens }
}

impl Specialization {
    pub(super) fn new(template: Template, summary: String, threads: u32, groups: [Groups; 3]) -> Self {
        let mut new = Specialization {
            template,
            summary,
            defines: Vec::new(),
            grouping: None,
            arguments: Vec::new(),
            threads,
            groups,
            reads: GroupReads::default(),
            then: None,
        };
        new.define("THREADS", threads);
        new
    }

    /// Adds `#define name value`; `name` may carry parameters.
    pub(super) fn define(&mut self, name: impl Into<String>, value: impl Display) {
        self.defines.push((name.into(), value.to_string()));
    }

    /// Adds a float constant that reads back as exactly the same number.
    pub(super) fn define_float(&mut self, name: &str, value: f32) {
        self.define(name, float_literal(value));
    }

    /// Adds a flag, 0 or 1.
    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.define(name, u8::from(value));
    }

    /// Adds a buffer that is only read.
    pub(super) fn input(&mut self, name: &'static str, element: &'static str) {
        self.arguments.push(Argument { name: name.to_owned(), element, writable: false, words: false });
    }

    /// Adds a buffer that is written.
    pub(super) fn output(&mut self, name: &'static str, element: &'static str) {
        self.arguments.push(Argument { name: name.to_owned(), element, writable: true, words: false });
    }

    /// Adds the launch's scratch, after all other buffers.
    pub(super) fn scratch(&mut self) {
        self.output(SCRATCH, "float");
    }

    /// Whether it has the launch's scratch among its arguments.
    pub(super) fn takes_scratch(&self) -> bool {
        self.arguments.iter().any(|argument| argument.name == SCRATCH)
    }

    /// Adds a parameter as an argument and the macro `load` that reads an element of it; returns its dtype's suffix.
    pub(super) fn parameter(
        &mut self,
        library: &ModelLibrary,
        id: ParameterId,
        name: &'static str,
        load: &str,
    ) -> Result<&'static str, String> {
        let (element, suffix) = element(parameter(library, id)?.dtype)?;
        self.input(name, element);
        self.define(format!("{load}(p, i)"), format!("LOAD_{suffix}(p, i)"));
        Ok(suffix)
    }

    /// The names under which the kernel templates know [`grouped::functions`], and where the scale of a step is.
    pub(super) fn define_grouping(&mut self, grouping: Grouping) {
        let bits = grouping.bits;
        self.grouping = Some(grouping);
        self.define("STEP_DOT(words, x)", format!("step_dot_q{bits}(words, x)"));
        self.define(
            "SCALE_OF(step)",
            match grouping.steps_per_group() {
                1 => "(step)".to_owned(),
                steps => format!("((step) / {steps}u)"),
            },
        );
    }
}

impl Specialization {
    /// Whether one kernel can do what this one and another do: they differ in the numbers of outputs alone.
    pub(super) fn goes_with(&self, other: &Specialization) -> bool {
        fn shapes(kernel: &Specialization) -> impl Iterator<Item = &(String, String)> {
            kernel.defines.iter().filter(|(name, _)| !SIZES.contains(&name.as_str()))
        }
        self.template == other.template
            && self.arguments == other.arguments
            && (self.threads, self.groups[1], self.groups[2], self.reads)
                == (other.threads, other.groups[1], other.groups[2], other.reads)
            && shapes(self).eq(shapes(other))
    }

    /// One kernel for linear layers that go together; their work groups stand one after the other. It begins by choosing a
    /// matrix: its buffers under the names that the template knows, and its sizes.
    pub(super) fn together(mut kernels: Vec<Specialization>) -> Specialization {
        if kernels.len() == 1 {
            let mut only = kernels.remove(0);
            if matches!(only.template, Template::MatvecRows | Template::MatvecColumns | Template::Gemm) {
                only.define("CHOOSE_MATRIX", "");
                only.define("MATRIX_GROUP", "GROUP_X");
            }
            return only;
        }
        let counts = kernels.iter().map(|kernel| kernel.groups[0].count);
        let total = counts.clone().sum();
        let starts: Vec<u32> = counts.scan(0, |end, count| Some(std::mem::replace(end, *end + count))).collect();
        let one_of = |values: &[String]| {
            let (last, rest) = values.split_last().expect("there are several");
            rest.iter().enumerate().rfold(last.clone(), |or, (i, value)| format!("(matrix == {i}u ? {value} : {or})"))
        };
        let numbers: Vec<String> = starts.iter().map(|start| format!("{start}u")).collect();
        let passed: Vec<String> = numbers[1..].iter().map(|start| format!("(uint)(GROUP_X >= {start})")).collect();
        let mut choose = format!("const uint matrix = {};", passed.join(" + "));
        for argument in &kernels[0].arguments {
            let Argument { name, element, writable, words } = argument;
            let access = if *writable { "" } else { "const " };
            let names: Vec<String> = (0..kernels.len()).map(|i| format!("{name}_{i}")).collect();
            let pointer = format!("GLOBAL {access}{element}* {name} = {};", one_of(&names));
            let _ = match words {
                true => write!(choose, " UNLESS_IMAGES({pointer})"),
                false => write!(choose, " {pointer}"),
            };
        }
        let sizes = SIZES.map(|size| {
            let value =
                |kernel: &Specialization| kernel.defines.iter().find(|(name, _)| name == size).map(|(_, v)| v.clone());
            (size, one_of(&kernels.iter().filter_map(value).collect::<Vec<_>>()))
        });
        let mut merged = kernels[0].clone();
        merged.groups[0].count = total;
        merged.defines.retain(|(name, _)| !SIZES.contains(&name.as_str()));
        for (name, value) in sizes {
            merged.define(name, value);
        }
        if let Some((_, text)) = merged.defines.iter_mut().find(|(name, _)| name == "WORDS_AT(i)") {
            let each: Vec<String> = (0..kernels.len()).map(|i| format!("WORDS_OF(codes_{i}, i)")).collect();
            *text = format!("WORDS_OF_ONE(codes, {}, i)", one_of(&each));
        }
        merged.define("CHOOSE_MATRIX", choose);
        merged.define("MATRIX_GROUP", format!("(GROUP_X - {})", one_of(&numbers)));
        merged.arguments.clear();
        for (i, kernel) in kernels.iter().enumerate() {
            let own = |argument: &Argument| Argument { name: format!("{}_{i}", argument.name), ..argument.clone() };
            merged.arguments.extend(kernel.arguments.iter().map(own));
        }
        let summaries: Vec<&str> = kernels.iter().map(|kernel| kernel.summary.as_str()).collect();
        merged.summary = summaries.join(" + ");
        merged
    }
}

/// The C element type of stored numbers and the suffix of the macros that load it.
pub(super) fn element(dtype: DType) -> Result<(&'static str, &'static str), String> {
    match dtype {
        DType::F32 => Ok(("float", "F32")),
        DType::F16 => Ok(("half", "F16")),
        DType::BF16 => Ok(("ushort", "BF16")),
        DType::U32 => Err("packed codes where numbers are needed".to_owned()),
    }
}

fn float_literal(value: f32) -> String {
    let mut text = format!("{value:?}");
    if !text.contains(['.', 'e']) {
        text.push_str(".0");
    }
    text.push('f');
    if value < 0.0 { format!("({text})") } else { text }
}

/// The part of a module's source that both languages share, when this compiler wrote it.
pub(super) fn without_prelude(source: &str) -> Option<&str> {
    [OPENCL_PRELUDE, METAL_PRELUDE].into_iter().find_map(|prelude| source.strip_prefix(prelude))
}

/// Collects kernels; equal ones become one.
pub(super) struct ModuleBuilder {
    target: Target,
    source: String,
    kernels: Vec<Kernel>,
    /// Text of a kernel without its name → index.
    known: HashMap<String, u32>,
    /// Those whose functions are there.
    groupings: Vec<Grouping>,
}

impl ModuleBuilder {
    pub(super) fn new(target: Target) -> Self {
        let prelude = if target == Target::Metal { METAL_PRELUDE } else { OPENCL_PRELUDE };
        ModuleBuilder {
            target,
            source: format!("{prelude}{COMMON}"),
            kernels: Vec::new(),
            known: HashMap::new(),
            groupings: Vec::new(),
        }
    }

    /// The index of the kernel, which is written unless an equal one is there.
    pub(super) fn add(&mut self, kernel: Specialization) -> u32 {
        let key = self.text(&kernel, "");
        if let Some(&index) = self.known.get(&key) {
            return index;
        }
        if let Some(grouping) = kernel.grouping.filter(|grouping| !self.groupings.contains(grouping)) {
            self.source.push_str(&grouped::functions(grouping));
            self.groupings.push(grouping);
        }
        let index = self.kernels.len() as u32;
        let name = format!("{}_{index}", kernel.template.name());
        let text = self.text(&kernel, &name);
        self.source.push_str(&text);
        let images = match self.target {
            Target::OpenCl => kernel.arguments.iter().zip(0..).filter(|(of, _)| of.words).map(|(_, at)| at).collect(),
            Target::Metal | Target::Host => Vec::new(),
        };
        self.kernels.push(Kernel { name, threads: [kernel.threads, 1, 1], images });
        self.known.insert(key, index);
        index
    }

    /// The call of a kernel that executes `launches` launches, and of the one after it.
    pub(super) fn call(&mut self, kernel: Specialization, launches: usize) -> KernelCall {
        let (groups, more, scratch) = (kernel.groups, launches as u32 - 1, kernel.takes_scratch());
        let then = kernel.then.clone();
        let kernel = self.add(kernel);
        let then = then.map(|then| Then { groups: then.groups, kernel: self.add(*then) });
        KernelCall { groups, kernel, more, scratch, then }
    }

    pub(super) fn finish(self) -> KernelModule {
        KernelModule { source: self.source, kernels: self.kernels, metallibs: Vec::new(), top: Vec::new() }
    }

    fn text(&self, kernel: &Specialization, name: &str) -> String {
        let mut text = format!("\n// ---- {} ----\n", kernel.summary);
        for (macro_name, value) in &kernel.defines {
            let _ = writeln!(text, "#define {macro_name} {value}");
        }
        let (signature, begin) = match self.target {
            Target::Metal => (metal_signature(kernel, name), String::new()),
            Target::OpenCl | Target::Host => (opencl_signature(kernel, name), opencl_begin(kernel)),
        };
        text.push_str(&kernel.template.source().replace("KERNEL {\n", &format!("{signature} {{\n{begin}    CALL\n")));
        for (macro_name, _) in &kernel.defines {
            let _ = writeln!(text, "#undef {}", macro_name.split('(').next().unwrap_or(macro_name));
        }
        text
    }
}

fn opencl_signature(kernel: &Specialization, name: &str) -> String {
    let mut text = format!(
        "__kernel PINNED_SUBGROUPS __attribute__((reqd_work_group_size({}, 1, 1)))\nvoid {name}(",
        kernel.threads
    );
    for argument in &kernel.arguments {
        let access = if argument.writable { "" } else { "const " };
        let _ = match argument.words {
            true => write!(text, "\n    WORDS_ARGUMENT {0} FROM_WORDS({0}),", argument.name),
            false => write!(text, "\n    __global {access}{}* {1} FROM({1}),", argument.element, argument.name),
        };
    }
    text.push_str("\n    __global const uint* call FROM(call))");
    text
}

/// What an OpenCL kernel begins with: its buffers become the parts of them that are its own.
fn opencl_begin(kernel: &Specialization) -> String {
    let mut text = String::from("    MOVE(call)");
    for Argument { name, words, .. } in &kernel.arguments {
        let _ = write!(text, " {}({name})", if *words { "MOVE_WORDS" } else { "MOVE" });
    }
    text + "\n"
}

fn metal_signature(kernel: &Specialization, name: &str) -> String {
    let mut text = format!("[[max_total_threads_per_threadgroup({})]]\nkernel void {name}(", kernel.threads);
    for (index, argument) in kernel.arguments.iter().enumerate() {
        let access = if argument.writable { "" } else { "const " };
        let _ = write!(text, "\n    device {access}{}* {} [[buffer({index})]],", argument.element, argument.name);
    }
    let _ = write!(
        text,
        "\n    device const uint* call [[buffer({})]],\
         \n    uint3 group_position [[threadgroup_position_in_grid]],\
         \n    uint thread_index [[thread_index_in_threadgroup]])",
        kernel.arguments.len()
    );
    text
}
