//! Real indexes round-trip; hostile ones are refused.

use knapsack_artifact::weight_index::{MAX_INDEX_BYTES, WeightIndex, WeightIndexError};
use knapsack_tensor::DType;
use knapsack_testkit::{fixtures, mlc_fixture};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn fixtures_round_trip() {
    for model in fixtures() {
        for quantization in model.quantizations {
            let folder = mlc_fixture(model.family, quantization);
            let text = std::fs::read_to_string(folder.join("tensor-cache.json")).unwrap();
            let index = WeightIndex::open(&folder).unwrap();
            index.check_files(&folder).unwrap();
            assert!(index.to_json() == text.trim_end(), "{} {quantization}", model.family);
            let b16 = std::fs::read(folder.join("tensor-cache-b16.json")).ok();
            assert_eq!(index.to_b16(), b16.map(|bytes| WeightIndex::parse(&bytes).unwrap()));
        }
    }
}

#[test]
fn float32_is_bfloat16_on_disk() {
    let index = WeightIndex::open(&mlc_fixture("llama", "q0f32")).unwrap();
    let (_, record) = index.records().next().unwrap();
    assert_eq!((record.dtype, record.stored_dtype()), (DType::F32, DType::BF16));
}

#[test]
fn the_old_name_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(WeightIndex::open(folder.path()), Err(WeightIndexError::NotFound(_))));
    std::fs::write(folder.path().join("ndarray-cache.json"), index().to_string()).unwrap();
    let index = WeightIndex::open(folder.path()).unwrap();
    assert!(matches!(index.check_files(folder.path()), Err(WeightIndexError::Read { .. })));
    std::fs::write(folder.path().join("a.bin"), [0; 3]).unwrap();
    assert!(matches!(index.check_files(folder.path()), Err(WeightIndexError::Length { actual: 3, expected: 32, .. })));
}

#[cfg(unix)]
#[test]
fn pipes_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("tensor-cache.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(WeightIndex::open(folder.path()), Err(WeightIndexError::Read { .. })));
    assert!(knapsack_artifact::AppConfig::read(&pipe).is_err());
}

fn index() -> Value {
    json!({"metadata": {"ParamSize": 2, "ParamBytes": 32.0, "BitsPerParam": 16.0}, "records": [{
    "dataPath": "a.bin", "format": "raw-shard", "nbytes": 32, "records": [
        {"name": "x", "shape": [2, 4], "dtype": "float16", "format": "raw", "nbytes": 16, "byteOffset": 0},
        {"name": "y", "shape": [8], "dtype": "float32", "format": "f32-to-bf16", "nbytes": 16, "byteOffset": 16}
    ]}]})
}

fn parse(value: &Value) -> Result<WeightIndex, WeightIndexError> {
    WeightIndex::parse(value.to_string().as_bytes())
}

#[test]
fn what_does_not_fit_is_refused() {
    parse(&index()).unwrap();
    let shard = "/records/0";
    let tensor = "/records/0/records/0";
    for (base, key, value) in [
        (shard, "dataPath", json!("../a.bin")),
        (shard, "dataPath", json!("/etc/passwd")),
        (shard, "dataPath", json!("a\\b")),
        (shard, "dataPath", json!("..")),
        (shard, "dataPath", json!("")),
        (shard, "dataPath", json!("a\u{0}b")),
        (shard, "format", json!("zip")),
        (shard, "nbytes", json!(31)),
        (shard, "nbytes", json!(-1)),
        (shard, "nbytes", json!(u64::MAX)),
        (shard, "md5sum", json!("zz")),
        (tensor, "name", json!("y")),
        (tensor, "name", json!("")),
        (tensor, "name", json!("a\nb")),
        (tensor, "name", json!("n".repeat(1000))),
        (tensor, "shape", json!([u64::MAX, u64::MAX])),
        (tensor, "shape", json!([1, 1, 1, 1, 1, 1, 1, 1, 1])),
        (tensor, "shape", json!([2, 5])),
        (tensor, "shape", json!([2.5])),
        (tensor, "dtype", json!("int7")),
        (tensor, "format", json!("lz4")),
        (tensor, "nbytes", json!(17)),
        (tensor, "byteOffset", json!(17)),
        (tensor, "byteOffset", json!(u64::MAX)),
    ] {
        let mut changed = index();
        changed.pointer_mut(base).unwrap()[key] = value.clone();
        assert!(parse(&changed).is_err(), "{key} = {value}");
    }
    let mut twice = index();
    let shard = twice["records"][0].clone();
    twice["records"].as_array_mut().unwrap().push(shard);
    assert!(matches!(parse(&twice), Err(WeightIndexError::Shard { .. })));
    assert!(WeightIndex::parse("[".repeat(100_000).as_bytes()).is_err());
    let large = vec![b' '; MAX_INDEX_BYTES as usize + 1];
    assert!(matches!(WeightIndex::parse(&large), Err(WeightIndexError::TooLarge(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_an_index(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = WeightIndex::parse(&bytes);
    }

    /// Text of a real index with a few bytes changed.
    #[test]
    fn a_damaged_index_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = index().to_string().into_bytes();
        for (position, byte) in changes {
            let position = position.index(bytes.len());
            bytes[position] = byte;
        }
        if let Ok(index) = WeightIndex::parse(&bytes) {
            for (shard, record) in index.records() {
                prop_assert!(record.byte_offset + record.nbytes <= index.shards[shard].nbytes);
            }
        }
    }
}
