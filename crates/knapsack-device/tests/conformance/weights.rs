//! Weight folders that are not what the library needs: each is refused with a value.

use super::Instance;
use super::build::Builder;
use knapsack_artifact::plan::*;
use knapsack_artifact::weight_index::{FILE_NAME, OLD_FILE_NAME};
use knapsack_tensor::DType;
use std::path::Path;

type Damage = fn(&Path);

fn edit(folder: &Path, from: &str, to: &str) {
    let path = folder.join(FILE_NAME);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

pub(crate) fn suite(instance: &Instance<'_>) {
    let cases: [(&str, Damage); 7] = [
        ("no index", |folder| std::fs::remove_file(folder.join(FILE_NAME)).unwrap()),
        ("no shard", |folder| std::fs::remove_file(folder.join("params_shard_0.bin")).unwrap()),
        ("short shard", |folder| std::fs::write(folder.join("params_shard_0.bin"), [0; 100]).unwrap()),
        ("a name missing", |folder| edit(folder, "\"p0\"", "\"p9\"")),
        ("another dtype", |folder| edit(folder, "\"float32\"", "\"uint32\"")),
        ("beyond the shard", |folder| edit(folder, "\"byteOffset\": 2", "\"byteOffset\": 100000")),
        ("not JSON", |folder| std::fs::write(folder.join(FILE_NAME), "{").unwrap()),
    ];
    for (what, damage) in cases {
        let mut b = Builder::new(4, 8, 1);
        let (rows, _) = b.input(16, 16);
        let (_, output) = (b.floats(&[3], DType::F16, &[1.0; 3]), rows);
        let sample = b.finish(output);
        damage(sample.folder.path());
        let error = instance.device.load((instance.prepare)(&sample.library), sample.folder.path());
        assert!(error.is_err(), "{}: {what}", instance.name);
    }
    // The index's old name is as good.
    let mut b = Builder::new(4, 8, 1);
    let (rows, _): (Rows, _) = b.input(16, 16);
    let sample = b.finish(rows);
    knapsack_artifact::files::rename(sample.folder.path().join(FILE_NAME), sample.folder.path().join(OLD_FILE_NAME))
        .unwrap();
    assert!(instance.device.load((instance.prepare)(&sample.library), sample.folder.path()).is_ok());
}
