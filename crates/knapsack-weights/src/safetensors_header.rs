//! The header of a safetensors file, with every promise checked: sizes, types, no overlap, no hole, nothing twice.
//!
//! The `safetensors` crate wants the whole file in memory and takes the last of two tensors of one name, so the header is read
//! here; a test compares with the crate.

use crate::error::ConvertError;
use crate::io::read_exact_at;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// Largest header, in bytes. One of 100,000 tensors has some 12 MB.
const MAX_HEADER_BYTES: u64 = 32 << 20;
/// Most tensors of a file.
const MAX_TENSORS: usize = 1 << 17;
/// Most axes of a tensor.
const MAX_AXES: usize = 8;

/// Element type of a checkpoint's tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceDType {
    F32,
    F16,
    BF16,
    /// One that no parameter may have.
    Other(String),
}

impl SourceDType {
    /// Bits of an element; `None` for types that are not known.
    fn bits(&self) -> Option<u64> {
        Some(match self {
            SourceDType::F32 => 32,
            SourceDType::F16 | SourceDType::BF16 => 16,
            SourceDType::Other(name) => match name.as_str() {
                "F4" => 4,
                "F6_E2M3" | "F6_E3M2" => 6,
                "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
                "I16" | "U16" => 16,
                "I32" | "U32" => 32,
                "I64" | "U64" | "F64" | "C64" => 64,
                _ => return None,
            },
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bits().unwrap_or(8) / 8
    }
}

impl<'de> Deserialize<'de> for SourceDType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(match name.as_str() {
            "F32" => SourceDType::F32,
            "F16" => SourceDType::F16,
            "BF16" => SourceDType::BF16,
            _ => SourceDType::Other(name.chars().take(20).collect()),
        })
    }
}

/// One tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: SourceDType,
    /// Which of the checkpoint's files.
    pub(crate) file: usize,
    /// Where it starts in the file.
    pub(crate) offset: u64,
}

/// One tensor of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    info: Info,
    /// Where the data of the file starts.
    base: u64,
}

#[derive(Debug, serde::Deserialize)]
struct Info {
    dtype: SourceDType,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    pub(crate) fn into_tensor(self, file: usize) -> Tensor {
        let Info { dtype, shape, data_offsets } = self.info;
        Tensor { name: self.name, shape, dtype, file, offset: self.base + data_offsets.0 }
    }
}

/// The tensors of a header in the order in which they are written, each once.
struct Entries(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut list, mut names) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!("`{name}` is there twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if list.len() == MAX_TENSORS {
                        return Err(serde::de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    list.push((name, map.next_value()?));
                }
                Ok(Entries(list))
            }
        }

        deserializer.deserialize_map(Map)
    }
}

/// Reads and checks the header of a safetensors file; tensors come in the order of their data.
pub(crate) fn read(file: &File, path: &Path) -> Result<Vec<Entry>, ConvertError> {
    let length = file.metadata().map_err(ConvertError::io("read", path))?.len();
    let mut start = vec![0; length.min(8) as usize];
    read_exact_at(file, &mut start, 0).map_err(ConvertError::io("read", path))?;
    start.resize(8 + header_size(&start, length, path)? as usize, 0);
    read_exact_at(file, &mut start, 0).map_err(ConvertError::io("read", path))?;
    parse(&start, length, path)
}

/// Bytes of the header of a file of `length` bytes that begins with `start`.
fn header_size(start: &[u8], length: u64, path: &Path) -> Result<u64, ConvertError> {
    let wrong = |problem: String| ConvertError::Checkpoint { path: path.to_owned(), problem };
    let (Some(size), Some(rest)) = (start.first_chunk(), length.checked_sub(8)) else {
        return Err(wrong(format!("{length} bytes are too few for a safetensors file")));
    };
    let (size, most) = (u64::from_le_bytes(*size), MAX_HEADER_BYTES.min(rest));
    match size <= most {
        true => Ok(size),
        false => Err(wrong(format!("a header of {size} bytes, expected at most {most}; is the file complete?"))),
    }
}

/// Checks the header of a safetensors file of `length` bytes that begins with `start`.
pub(crate) fn parse(start: &[u8], length: u64, path: &Path) -> Result<Vec<Entry>, ConvertError> {
    let wrong = |problem: String| ConvertError::Checkpoint { path: path.to_owned(), problem };
    let size = header_size(start, length, path)?;
    let header = start.get(8..8 + size as usize).ok_or_else(|| wrong("the header is not complete".to_owned()))?;
    let Entries(mut entries) =
        serde_json::from_slice(header).map_err(|source| wrong(format!("the header is not valid: {source}")))?;
    // Empty tensors share their offset with the next one.
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in &entries {
        if let Some(problem) = info.problem(end) {
            return Err(wrong(format!("tensor `{}`: {problem}", name.chars().take(200).collect::<String>())));
        }
        end = info.data_offsets.1;
    }
    let data = length - 8 - size;
    if end != data {
        return Err(wrong(format!("{data} bytes of data, but the header describes {end}; is the file complete?")));
    }
    Ok(entries.into_iter().map(|(name, info)| Entry { name, info, base: 8 + size }).collect())
}

impl Info {
    /// What is wrong with a tensor whose data should start at `start`.
    fn problem(&self, start: u64) -> Option<String> {
        let (begin, end) = self.data_offsets;
        if self.shape.len() > MAX_AXES {
            return Some(format!("{} axes, more than {MAX_AXES}", self.shape.len()));
        }
        if begin != start || end < begin {
            return Some(format!("data at {begin}..{end}, but the previous tensor ends at {start}"));
        }
        let Some(bits) = self.dtype.bits() else {
            let SourceDType::Other(name) = &self.dtype else { return None };
            return Some(format!("unknown dtype {name:?}"));
        };
        let bytes = self.shape.iter().try_fold(bits, |bits, &dim| bits.checked_mul(dim)).map(|bits| bits.div_ceil(8));
        match bytes {
            Some(bytes) if bytes == end - begin => None,
            _ => Some(format!("{} bytes do not hold shape {:?}", end - begin, self.shape)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn parse(header: &[u8], data: usize) -> Result<Vec<Entry>, ConvertError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header).unwrap();
        file.write_all(&vec![0; data]).unwrap();
        read(&File::open(file.path()).unwrap(), file.path())
    }

    #[test]
    fn fixtures_are_read_as_by_the_crate() {
        for model in knapsack_testkit::fixtures() {
            let path = knapsack_testkit::fixture(model.family).join("model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            let crate_s = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let entries = read(&File::open(&path).unwrap(), &path).unwrap();
            assert_eq!(entries.len(), crate_s.len());
            for entry in entries {
                let view = crate_s.tensor(&entry.name).unwrap();
                let tensor = entry.into_tensor(0);
                let shape: Vec<u64> = view.shape().iter().map(|&dim| dim as u64).collect();
                assert_eq!(tensor.shape, shape);
                assert_eq!(&bytes[tensor.offset as usize..][..view.data().len()], view.data());
            }
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        let one = r#""a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}"#;
        parse(format!("{{{one}}}").as_bytes(), 4).unwrap();
        parse(format!(r#"{{"__metadata__":{{"format":"pt"}},{one}}}"#).as_bytes(), 4).unwrap();
        for (header, data, problem) in [
            (format!("{{{one}}}"), 3, "is the file complete"),
            (format!("{{{one}}}"), 5, "is the file complete"),
            (format!("{{{one},{one}}}"), 4, "twice"),
            (format!(r#"{{{one},"b":{{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}}}"#), 4, "previous tensor"),
            (format!(r#"{{{one},"b":{{"dtype":"F16","shape":[2],"data_offsets":[6,10]}}}}"#), 10, "previous tensor"),
            (r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[4,0]}}"#.to_owned(), 4, "previous tensor"),
            (r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,4]}}"#.to_owned(), 4, "do not hold"),
            (r#"{"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,4]}}"#.to_owned(), 4, "unknown dtype"),
            (
                r#"{"a":{"dtype":"F16","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,4]}}"#
                    .to_owned(),
                4,
                "do not hold",
            ),
            (r#"{"a":{"dtype":"F16","shape":[-1],"data_offsets":[0,4]}}"#.to_owned(), 4, "not valid"),
            (r#"{"a":{"dtype":"F16","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,4]}}"#.to_owned(), 4, "axes"),
            ("[".repeat(5000), 0, "not valid"),
            (String::new(), 0, "not valid"),
        ] {
            let error = parse(header.as_bytes(), data).unwrap_err().to_string();
            assert!(error.contains(problem), "{header}: {error}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&u64::MAX.to_le_bytes()).unwrap();
        assert!(read(&File::open(file.path()).unwrap(), file.path()).is_err());
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(read(&File::open(empty.path()).unwrap(), empty.path()).is_err());
    }

    proptest! {
        #[test]
        fn a_damaged_header_never_panics(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
        ) {
            let mut header = br#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#.to_vec();
            for (position, byte) in changes {
                let position = position.index(header.len());
                header[position] = byte;
            }
            let _ = parse(&header, 8);
        }
    }
}
