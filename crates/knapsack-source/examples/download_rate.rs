//! Download rate on loopback, hash included, with curl (which does not hash) beside it.
//!
//! `cargo run --release -p knapsack-source --example download_rate [MiB] [rounds]`

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use knapsack_source::{HubLocation, Location, LockPolicy, ModelRequest, Settings, Silent, Sources};
use knapsack_testkit::hub::{HubRepository, HubServer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let size = arguments.next().transpose()?.unwrap_or(1024) << 20;
    let rounds = arguments.next().transpose()?.unwrap_or(5);
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source.bin");
    write_noise(&source, size)?;
    let sha256 = knapsack_source::sha256_file(&source)?;

    let hub = HubServer::start();
    let index = format!(r#"{{"records": [{{"dataPath": "params_shard_0.bin", "nbytes": {size}}}]}}"#);
    let repository = HubRepository::new().file("mlc-chat-config.json", "{}").file("tensor-cache.json", index);
    hub.push("org/model", repository.lfs_on_disk("params_shard_0.bin", &source, size, &sha256));
    let address = format!("{}/{sha256}?signature=1", hub.storage_url());

    let (mut ours, mut curls) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let target = folder.path().join("curl.bin");
        let start = Instant::now();
        let status = Command::new("curl").args(["-s", "-o"]).arg(&target).arg(&address).status()?;
        curls.push(rate(size, start));
        assert!(status.success());
        fs::remove_file(target)?;

        let mut settings = Settings::new(&hub.url(), folder.path().join("hub"), folder.path().join("state"));
        settings.patience.attempts = 1;
        let location = Location::Hub(HubLocation::new("org/model", None)?);
        let request = ModelRequest { model_id: "model".to_owned(), location, weights: true };
        let sources = Sources::new(&settings, &Silent);
        let resolution = sources.resolve(&[request], None, &LockPolicy::default())?;
        let start = Instant::now();
        sources.fetch(&resolution)?;
        ours.push(rate(size, start));
        fs::remove_dir_all(folder.path().join("hub"))?;
    }
    println!("curl, no hash:      {}", summary(&mut curls));
    println!("knapsack, hashed:   {}", summary(&mut ours));
    println!("ratio of medians:   {:.2}", ours[ours.len() / 2] / curls[curls.len() / 2]);
    Ok(())
}

fn write_noise(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let piece: Vec<u8> =
        (0..1u64 << 17).flat_map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i >> 3)).to_le_bytes()).collect();
    for _ in 0..size / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    Ok(())
}

/// MB/s.
fn rate(size: u64, start: Instant) -> f64 {
    size as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn summary(rates: &mut [f64]) -> String {
    rates.sort_by(f64::total_cmp);
    format!("median {:.0} MB/s, {:.0} to {:.0}", rates[rates.len() / 2], rates[0], rates[rates.len() - 1])
}
