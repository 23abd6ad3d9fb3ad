//! Download rate on loopback, hash included, with curl (which does not hash) beside it.
//!
//! `cargo run --release -p knapsack-source --example download_rate [MiB] [rounds]`
//!
//! Both are processes of their own that fetch the same file from the same server into the same file system, in turn. Beside the
//! rates stand the CPU seconds per GB of each, and of the server: where cores are few, they decide.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use knapsack_source::{HubLocation, Location, LockPolicy, ModelRequest, Settings, Silent, Sources};
use knapsack_testkit::hub::{HubRepository, HubServer};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, endpoint, folder] = &arguments[..]
        && verb == "fetch"
    {
        return fetch(endpoint, Path::new(folder));
    }
    let number = |index: usize, default| arguments.get(index).map_or(Ok(default), |text| text.parse::<u64>());
    let (size, rounds) = (number(0, 1024)? << 20, number(1, 5)?);
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source.bin");
    write_noise(&source, size)?;
    let sha256 = knapsack_source::sha256_file(&source)?;

    let hub = HubServer::start();
    let index = format!(r#"{{"records": [{{"dataPath": "params_shard_0.bin", "nbytes": {size}}}]}}"#);
    let repository = HubRepository::new().file("mlc-chat-config.json", "{}").file("tensor-cache.json", index);
    hub.push("org/model", repository.lfs_on_disk("params_shard_0.bin", &source, size, &sha256));
    let address = format!("{}/{sha256}?signature=1", hub.storage_url());

    let (mut curl, mut own) = (Side::default(), Side::default());
    for _ in 0..rounds {
        let target = folder.path().join("curl.bin");
        curl.measure(Command::new("curl").args(["-s", "-o"]).arg(&target).arg(&address), size)?;
        fs::remove_file(target)?;
        let target = folder.path().join("knapsack");
        own.measure(Command::new(std::env::current_exe()?).args(["fetch", &hub.url()]).arg(&target), size)?;
        fs::remove_dir_all(target)?;
    }
    println!("curl, no hash:      {curl}");
    println!("knapsack, hashed:   {own}");
    println!("ratio of medians:   {:.2}", median(&own.rates) / median(&curl.rates));
    Ok(())
}

/// What the measured process does: everything from the question for the revision to the file in the cache.
fn fetch(endpoint: &str, folder: &Path) -> Outcome<()> {
    let mut settings = Settings::new(endpoint, folder.join("hub"), folder.join("state"));
    settings.patience.attempts = 1;
    let location = Location::Hub(HubLocation::new("org/model", None)?);
    let request = ModelRequest { model_id: "model".to_owned(), location, weights: true };
    let sources = Sources::new(&settings, &Silent);
    sources.fetch(&sources.resolve(&[request], None, &LockPolicy::default())?.models)?;
    Ok(())
}

fn write_noise(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let piece: Vec<u8> =
        (0..1u64 << 17).flat_map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i >> 3)).to_le_bytes()).collect();
    for _ in 0..size / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    // Otherwise the system writes it back in the middle of the first rounds.
    file.sync_all()
}

/// One of the two, over all rounds.
#[derive(Default)]
struct Side {
    /// MB/s.
    rates: Vec<f64>,
    /// CPU seconds per GB.
    client: Vec<f64>,
    server: Vec<f64>,
}

impl Side {
    fn measure(&mut self, command: &mut Command, size: u64) -> Outcome<()> {
        let (server, client) = cpu_seconds();
        let start = Instant::now();
        if !command.status()?.success() {
            return Err(format!("{command:?} failed").into());
        }
        let gigabytes = size as f64 / 1e9;
        self.rates.push(1000.0 * gigabytes / start.elapsed().as_secs_f64());
        let after = cpu_seconds();
        self.server.push((after.0 - server) / gigabytes);
        self.client.push((after.1 - client) / gigabytes);
        Ok(())
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let extreme = |pick: fn(f64, f64) -> f64| self.rates.iter().copied().reduce(pick).unwrap_or_default();
        write!(f, "median {:.0} MB/s, {:.0} to {:.0}", median(&self.rates), extreme(f64::min), extreme(f64::max))?;
        write!(f, "; CPU s/GB: {:.2}, server {:.2}", median(&self.client), median(&self.server))
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// CPU seconds of this process, and of its children that have ended; zeros where the system has no `/proc`.
fn cpu_seconds() -> (f64, f64) {
    /// Linux has reported hundredths of a second to programs for as long as it exists.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    // From the third field on: utime, stime, cutime and cstime are the 14th to the 17th.
    let ticks: Vec<f64> = fields.skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system, child_user, child_system] => ((user + system) / TICKS, (child_user + child_system) / TICKS),
        _ => (0.0, 0.0),
    }
}
