//! Finding model libraries in the files that carry them: a bare `.knapsack` blob, a Mach-O object, a static archive of them, a
//! fat file of either, an ELF shared library. The phone needs none of this (its linker finds the symbol), hence the feature.

use crate::ModelLibrary;
use crate::device::AppleSlice;
use crate::library::{HEADER_BYTES, LibraryError, MAGIC, SYMBOL_SUFFIX};
use crate::table::{self, ModelTable, TableError};
use crate::weight_index::read_bounded;
use object::read::archive::ArchiveFile;
use object::read::macho::{FatArch, MachOFatFile32, MachOFatFile64};
use object::{Architecture, BinaryFormat, FileKind, Object, ObjectSection, ObjectSegment, ObjectSymbol};
use std::path::{Path, PathBuf};

/// Largest file that is opened.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most libraries of one file, over all its slices.
pub(crate) const MAX_LIBRARIES: usize = 1 << 14;
/// Most members of an archive and slices of a fat file.
const MAX_MEMBERS: usize = 1 << 14;
/// Archive in a fat file is depth 1, an object in it depth 2.
const MAX_DEPTH: u32 = 3;

/// The machine that an object file is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slice {
    /// `mach-o`, `elf`, or `knapsack` for a bare blob.
    pub format: &'static str,
    /// `arm64`, `x86_64`; `any` for a bare blob.
    pub architecture: String,
    /// `ios`, `ios-simulator`, `macabi`, … where the file says it.
    pub platform: Option<&'static str>,
}

impl std::fmt::Display for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.format, self.architecture)?;
        self.platform.map_or(Ok(()), |platform| write!(f, " {platform}"))
    }
}

/// One library where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contained<'a> {
    /// Name by its symbol, without [`SYMBOL_SUFFIX`]; empty for a bare blob, which says its name inside.
    pub name: String,
    /// For which machine.
    pub slice: Slice,
    /// The blob, exactly.
    pub blob: &'a [u8],
}

/// Why no library could be taken out of a file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum ContainerError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Larger than any real one.
    #[error("the file is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// None of the formats.
    #[error("neither a model library nor an archive, object or shared library that could hold one")]
    UnknownFormat,
    /// The container contradicts itself.
    #[error("the {format} is damaged: {problem}")]
    Damaged {
        /// Which kind of file.
        format: &'static str,
        /// What the reader says.
        problem: String,
    },
    /// Too many members or libraries, or nested too deep.
    #[error("the file holds more than {0} {1}")]
    TooMany(usize, &'static str),
    /// A symbol is there, but not a library behind it.
    #[error("symbol `{symbol}` ({slice}) is not a model library")]
    Blob {
        symbol: String,
        /// For which machine ([`Slice`], as text).
        slice: String,
        #[source]
        source: LibraryError,
    },
    /// The symbol of the model table is there, but not a table behind it.
    #[error("symbol `{}` ({slice}) is not a model table", table::SYMBOL)]
    Table {
        /// For which machine ([`Slice`], as text).
        slice: String,
        #[source]
        source: TableError,
    },
    /// A bare blob that is not one.
    #[error("the model library cannot be used")]
    Bare(#[source] LibraryError),
    /// It holds others.
    #[error("no model library named `{name}`; found: {}", list(found))]
    NoSuchLibrary {
        /// The one that was asked for.
        name: String,
        /// Those that are there.
        found: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn damaged(format: &'static str) -> impl Fn(object::Error) -> ContainerError {
    move |error| ContainerError::Damaged { format, problem: error.to_string() }
}

/// Reads a file that [`libraries`] takes.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, ContainerError> {
    let wrap = |source| ContainerError::Read { path: path.to_path_buf(), source };
    let bytes = read_bounded(path, MAX_FILE_BYTES).map_err(wrap)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(ContainerError::TooLarge) } else { Ok(bytes) }
}

/// Every library in the file, in file order: those with a symbol of their own; of an image whose symbols were stripped, those of
/// its model table. Headers are checked, payloads not: [`ModelLibrary::decode`] does that.
///
/// # Errors
/// [`ContainerError`]; a file of a known format without libraries gives an empty list.
pub fn libraries(bytes: &[u8]) -> Result<Vec<Contained<'_>>, ContainerError> {
    let mut found = Vec::new();
    walk(bytes, MAX_DEPTH, &mut |part| match part {
        Part::Blob(bytes) => {
            let slice = Slice { format: "knapsack", architecture: "any".into(), platform: None };
            let blob = blob(bytes).map_err(ContainerError::Bare)?;
            push(&mut found, Contained { name: String::new(), slice, blob })
        }
        Part::Object(bytes) => object_file(bytes, &mut found),
    })?;
    Ok(found)
}

/// The model table of every object and image in the file, in file order.
///
/// # Errors
/// [`ContainerError`]; a file of a known format without a table gives an empty list.
pub fn tables(bytes: &[u8]) -> Result<Vec<(Slice, ModelTable<'_>)>, ContainerError> {
    let mut found = Vec::new();
    walk(bytes, MAX_DEPTH, &mut |part| {
        if let Part::Object(bytes) = part {
            let image = Image::parse(bytes)?;
            found.extend(image.table()?.map(|table| (image.slice, table)));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Decodes the library `name`, of whichever slice; of a bare blob, the library itself when it is called so.
///
/// # Errors
/// [`ContainerError`].
pub fn find(bytes: &[u8], name: &str) -> Result<ModelLibrary, ContainerError> {
    let mut names = Vec::new();
    for contained in libraries(bytes)? {
        if contained.name == name {
            return contained.decode();
        }
        if contained.name.is_empty() {
            let library = contained.decode()?;
            if library.name == name {
                return Ok(library);
            }
            names.push(library.name);
        } else {
            names.push(contained.name);
        }
    }
    names.sort();
    names.dedup();
    Err(ContainerError::NoSuchLibrary { name: name.into(), found: names })
}

impl Contained<'_> {
    /// Decodes and validates the library; its name must be that of its symbol.
    ///
    /// # Errors
    /// [`ContainerError::Blob`] or [`ContainerError::Bare`]; [`ContainerError::NoSuchLibrary`] when the names differ.
    pub fn decode(&self) -> Result<ModelLibrary, ContainerError> {
        let library = ModelLibrary::decode(self.blob).map_err(|source| {
            if self.name.is_empty() {
                ContainerError::Bare(source)
            } else {
                let symbol = ModelLibrary::symbol(&self.name);
                ContainerError::Blob { symbol, slice: self.slice.to_string(), source }
            }
        })?;
        if !self.name.is_empty() && library.name != self.name {
            return Err(ContainerError::NoSuchLibrary { name: self.name.clone(), found: vec![library.name] });
        }
        Ok(library)
    }
}

/// What a container holds at its leaves.
enum Part<'a> {
    /// A bare library.
    Blob(&'a [u8]),
    /// An object file or a linked image.
    Object(&'a [u8]),
}

type Visit<'v, 'a> = dyn FnMut(Part<'a>) -> Result<(), ContainerError> + 'v;

fn walk<'a>(bytes: &'a [u8], depth: u32, visit: &mut Visit<'_, 'a>) -> Result<(), ContainerError> {
    if depth == 0 {
        return Err(ContainerError::TooMany(MAX_DEPTH as usize, "levels of archives"));
    }
    if bytes.starts_with(MAGIC) {
        return visit(Part::Blob(bytes));
    }
    match FileKind::parse(bytes).map_err(|_| ContainerError::UnknownFormat)? {
        FileKind::Archive => archive(bytes, depth, visit),
        FileKind::MachOFat32 => {
            let file = MachOFatFile32::parse(bytes).map_err(damaged("fat file"))?;
            fat(bytes, file.arches(), depth, visit)
        }
        FileKind::MachOFat64 => {
            let file = MachOFatFile64::parse(bytes).map_err(damaged("fat file"))?;
            fat(bytes, file.arches(), depth, visit)
        }
        FileKind::MachO64 | FileKind::Elf64 => visit(Part::Object(bytes)),
        _ => Err(ContainerError::UnknownFormat),
    }
}

fn archive<'a>(bytes: &'a [u8], depth: u32, visit: &mut Visit<'_, 'a>) -> Result<(), ContainerError> {
    let file = ArchiveFile::parse(bytes).map_err(damaged("archive"))?;
    if file.is_thin() {
        return Err(ContainerError::Damaged {
            format: "archive",
            problem: "it is thin: its members lie elsewhere".into(),
        });
    }
    for (index, member) in file.members().enumerate() {
        if index >= MAX_MEMBERS {
            return Err(ContainerError::TooMany(MAX_MEMBERS, "archive members"));
        }
        let data = member.and_then(|member| member.data(bytes)).map_err(damaged("archive"))?;
        match walk(data, depth - 1, visit) {
            // Archives hold other things too: bitcode, notes.
            Err(ContainerError::UnknownFormat) => {}
            result => result?,
        }
    }
    Ok(())
}

fn fat<'a, A: FatArch>(
    bytes: &'a [u8],
    arches: &[A],
    depth: u32,
    visit: &mut Visit<'_, 'a>,
) -> Result<(), ContainerError> {
    if arches.len() > MAX_MEMBERS {
        return Err(ContainerError::TooMany(MAX_MEMBERS, "slices"));
    }
    arches.iter().try_for_each(|arch| walk(arch.data(bytes).map_err(damaged("fat file"))?, depth - 1, visit))
}

/// An object file or a linked image, opened.
struct Image<'a> {
    file: object::File<'a>,
    slice: Slice,
}

impl<'a> Image<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ContainerError> {
        let file = object::File::parse(bytes).map_err(damaged("object file"))?;
        let elf = file.format() == BinaryFormat::Elf;
        let slice = Slice {
            format: if elf { "elf" } else { "mach-o" },
            architecture: match file.architecture() {
                Architecture::Aarch64 => "arm64".into(),
                Architecture::X86_64 => "x86_64".into(),
                other => format!("{other:?}").to_lowercase(),
            },
            platform: if elf { None } else { macho_platform(bytes) },
        };
        Ok(Self { file, slice })
    }

    /// Every defined symbol, without the underscore of Mach-O.
    fn symbols(&self) -> impl Iterator<Item = (&'a str, object::Symbol<'a, '_>)> {
        let elf = self.file.format() == BinaryFormat::Elf;
        // A shared library exports through its dynamic symbols, a relocatable object has only the plain ones.
        let dynamic = elf && self.file.dynamic_symbols().next().is_some();
        let symbols = if dynamic { self.file.dynamic_symbols() } else { self.file.symbols() };
        symbols.filter(|symbol| !symbol.is_undefined()).filter_map(move |symbol| {
            let name = symbol.name().ok()?;
            Some((if elf { name } else { name.strip_prefix('_').unwrap_or(name) }, symbol))
        })
    }

    /// The model table: behind its symbol or, where the symbols were stripped, by what it starts with.
    fn table(&self) -> Result<Option<ModelTable<'a>>, ContainerError> {
        let wrap = |source| ContainerError::Table { slice: self.slice.to_string(), source };
        if let Some((name, symbol)) = self.symbols().find(|(name, _)| *name == table::SYMBOL) {
            let data = data_at(&self.file, &symbol).ok_or_else(|| outside(name))?;
            return ModelTable::parse(data).map(Some).map_err(wrap);
        }
        for section in self.file.sections() {
            let Ok(data) = section.data() else { continue };
            let starts = (0..data.len()).step_by(table::ALIGNMENT as usize);
            // Code that looks for tables holds the magic too: only what is a whole table counts.
            let mut tables = starts.filter(|&at| data[at..].starts_with(table::MAGIC));
            if let Some(found) = tables.find_map(|at| ModelTable::parse(&data[at..]).ok()) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn outside(symbol: &str) -> ContainerError {
    let problem = format!("symbol `{symbol}` points outside of its data");
    ContainerError::Damaged { format: "object file", problem }
}

fn object_file<'a>(bytes: &'a [u8], found: &mut Vec<Contained<'a>>) -> Result<(), ContainerError> {
    let image = Image::parse(bytes)?;
    let before = found.len();
    for (full, symbol) in image.symbols() {
        let Some(name) = full.strip_suffix(SYMBOL_SUFFIX).filter(|name| !name.is_empty()) else { continue };
        let data = data_at(&image.file, &symbol).ok_or_else(|| outside(full))?;
        let blob = blob(data).map_err(|source| ContainerError::Blob {
            symbol: full.into(),
            slice: image.slice.to_string(),
            source,
        })?;
        push(found, Contained { name: name.into(), slice: image.slice.clone(), blob })?;
    }
    if found.len() == before
        && let Some(table) = image.table()?
    {
        for (name, blob) in table.libraries() {
            push(found, Contained { name: (*name).into(), slice: image.slice.clone(), blob })?;
        }
    }
    Ok(())
}

/// The bytes from a symbol to the end of its section, or of its segment where there are no sections.
fn data_at<'a>(file: &object::File<'a>, symbol: &object::Symbol<'a, '_>) -> Option<&'a [u8]> {
    let address = symbol.address();
    if let Some(section) = symbol.section_index().and_then(|index| file.section_by_index(index).ok()) {
        return section.data().ok()?.get(usize::try_from(address.checked_sub(section.address())?).ok()?..);
    }
    file.segments().find_map(|segment| {
        let offset = usize::try_from(address.checked_sub(segment.address())?).ok()?;
        segment.data().ok()?.get(offset..).filter(|rest| !rest.is_empty())
    })
}

fn blob(bytes: &[u8]) -> Result<&[u8], LibraryError> {
    let length = ModelLibrary::blob_len(&bytes[..bytes.len().min(HEADER_BYTES)])?;
    bytes.get(..length).ok_or(LibraryError::Truncated { actual: bytes.len() as u64, expected: length as u64 })
}

fn push<'a>(found: &mut Vec<Contained<'a>>, contained: Contained<'a>) -> Result<(), ContainerError> {
    if found.len() >= MAX_LIBRARIES {
        return Err(ContainerError::TooMany(MAX_LIBRARIES, "model libraries"));
    }
    found.push(contained);
    Ok(())
}

/// The platform of `LC_BUILD_VERSION`.
fn macho_platform(bytes: &[u8]) -> Option<&'static str> {
    use object::macho;
    use object::read::macho::MachHeader;
    let header = macho::MachHeader64::<object::Endianness>::parse(bytes, 0).ok()?;
    let endian = header.endian().ok()?;
    let mut commands = header.load_commands(endian, bytes, 0).ok()?;
    while let Ok(Some(command)) = commands.next() {
        if let Ok(Some(version)) = command.build_version(endian) {
            let platform = version.0.platform.get(endian);
            let slice = AppleSlice::ALL.into_iter().find(|slice| slice.build_platform == platform.0);
            let other = if platform == macho::PLATFORM_MACOS { "macos" } else { "other" };
            return Some(slice.map_or(other, |slice| slice.name));
        }
    }
    None
}
