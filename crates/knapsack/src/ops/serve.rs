//! `knapsack serve dist`: the package behind an OpenAI-compatible endpoint on this machine.

use crate::cli::ServeArgs;
use crate::exit::{OrWrongInput, wrong_input};
use crate::interrupt::Graceful;
use crate::report::Reporter;
use crate::serve::{Access, Limits, OnDownload, Server, listen};
use crate::{first_use, open, phones};
use anyhow::Context;
use knapsack_artifact::app_config::WeightsLocation;
use knapsack_config::{AppMemory, DeviceProfiles};
use knapsack_runtime::download::DownloadProgress;
use knapsack_runtime::manager::{Event, EvictionReason, Manager, system_budget};
use knapsack_runtime::{Package, PackageLoader};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How often the server looks whether Ctrl-C was pressed.
const POLL: Duration = Duration::from_millis(50);
/// How long answers may take to end after that.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves until Ctrl-C or SIGTERM, which end the answers under way.
pub fn run(args: &ServeArgs, reporter: &Reporter) -> anyhow::Result<()> {
    if !Package::is_package(&args.path) {
        return Err(wrong_input(format!("{} is not a package: run `knapsack package` first", args.path.display())));
    }
    let package = Package::open(&args.path).or_wrong_input()?;
    let budget = budget(args)?;
    let downloaded = |weights: &WeightsLocation| matches!(weights, WeightsLocation::Download(_));
    let store = match package.config().model_list.iter().any(|model| downloaded(&model.weights)) {
        true => Some(first_use::store(args.downloads.downloads.as_deref())?),
        false => None,
    };
    let device = open::device(&args.device)?;
    reporter.detail("Device", device.description());
    let told = reporter.clone();
    let listener = Box::new(move |event: &Event<'_>| tell(&told, event));
    let manager = Manager::new(PackageLoader::new(package, device, store), budget, Some(listener));
    let limits = Limits {
        connections: args.max_connections as usize,
        patience: Duration::from_secs(u64::from(args.client_timeout)),
    };
    let keys = keys(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let socket = TcpListener::bind((args.host.as_str(), args.port))
            .await
            .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?;
        let local = socket.local_addr()?;
        if !local.ip().is_loopback() && keys.is_empty() {
            reporter.warning(format_args!("{local} can be reached from other machines, and asks for no --api-key"));
        }
        let names = args.allow_host.iter().cloned().chain([args.host.clone()]).collect();
        let access = Access::new(local.ip(), names, keys);
        let server = Server::new(manager, access, &limits, tell_downloads(reporter));
        let graceful = Graceful::new();
        // Programs that start the server read the port from this line.
        match reporter.is_json() {
            true => reporter.result("listening", &json!({ "url": format!("http://{local}/v1"), "budget": budget }))?,
            false => reporter.line(format_args!("listening on http://{local}/v1 (budget {budget} bytes)"))?,
        }
        serve(socket, server, limits, &graceful).await
    });
    // A download or an answer that does not end in time must not keep the program.
    runtime.shutdown_background();
    result?;
    reporter.status("Stopped", "serving");
    Ok(())
}

/// The keys that requests must bring one of; none: anybody may ask.
fn keys(args: &ServeArgs) -> anyhow::Result<Vec<String>> {
    let keys = match (&args.api_key[..], std::env::var("KNAPSACK_API_KEY")) {
        ([], Ok(key)) if !key.is_empty() => vec![key],
        (keys, _) => keys.to_vec(),
    };
    // What a header cannot carry would lock everybody out.
    match keys.iter().all(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())) {
        true => Ok(keys),
        false => Err(wrong_input("an API key is one or more visible ASCII characters without spaces")),
    }
}

/// Bytes that all models may take together.
fn budget(args: &ServeArgs) -> anyhow::Result<u64> {
    if let Some(name) = &args.phone {
        let profiles = DeviceProfiles::built_in()?;
        let phone = phones::named(name, &profiles)?;
        let unknown =
            || wrong_input(format!("nobody has published what an app may use on {}: give --budget", phone.title));
        return phone.available(&AppMemory::default()).ok_or_else(unknown);
    }
    let unknown = || wrong_input("this system does not say how much memory is free: give --budget");
    args.budget.or_else(system_budget).ok_or_else(unknown)
}

/// Until Ctrl-C: then no new connections, and the answers under way end where they are.
async fn serve(socket: TcpListener, server: Server, limits: Limits, graceful: &Graceful) -> anyhow::Result<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let router = server.clone().router();
    let mut serving = tokio::spawn(listen(socket, router, limits, async { drop(stopped.await) }));
    while !graceful.requested() && !serving.is_finished() {
        sleep(POLL).await;
    }
    server.stop();
    let _ = stop.send(());
    match timeout(FAREWELL, &mut serving).await {
        Ok(ended) => ended.context("the server failed"),
        Err(_) => Ok(()),
    }
}

/// Says which models come and go, to those who ask for more.
fn tell(reporter: &Reporter, event: &Event<'_>) {
    match event {
        Event::Loaded { model_id, bytes, time } => {
            reporter.detail("Loaded", format_args!("{model_id} in {:.2} s, {bytes} bytes", time.as_secs_f64()));
        }
        Event::Evicted { model_id, bytes, reason } => {
            let why = match reason {
                EvictionReason::Room => "to make room",
                EvictionReason::Pressure => "the system needs memory",
                EvictionReason::Unloaded => "it was asked for",
            };
            reporter.detail("Evicted", format_args!("{model_id}, {bytes} bytes: {why}"));
        }
        Event::Failed { model_id, error } => reporter.detail("Failed", format_args!("{model_id}: {error}")),
        _ => {}
    }
}

/// Says each tenth of a download.
fn tell_downloads(reporter: &Reporter) -> OnDownload {
    let reporter = reporter.clone();
    let told: Mutex<BTreeMap<String, u64>> = Mutex::default();
    Arc::new(move |model_id: &str, DownloadProgress { done, total }| {
        let tenth = done.saturating_mul(10) / total.max(1);
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(model_id.to_owned(), tenth) != Some(tenth) {
            reporter.status("Downloading", format_args!("{model_id}: {done} of {total} bytes"));
        }
    })
}
