//! `knapsack serve dist`: the package behind an OpenAI-compatible endpoint on this machine.

use crate::cli::ServeArgs;
use crate::exit::{OrWrongInput, wrong_input};
use crate::open;
use crate::report::Reporter;
use crate::serve::Server;
use anyhow::Context;
use knapsack_bundle::Cache;
use knapsack_runtime::download::{HttpTransport, Store};
use knapsack_runtime::manager::{Event, Manager, host_budget};
use knapsack_runtime::{Package, PackageLoader};
use std::sync::Arc;

/// Serves until Ctrl-C.
pub fn run(args: &ServeArgs, reporter: &Reporter) -> anyhow::Result<()> {
    if !Package::is_package(&args.path) {
        return Err(wrong_input(format!("{} is not a package: run `knapsack package` first", args.path.display())));
    }
    let package = Package::open(&args.path).or_wrong_input()?;
    let budget = match args.budget {
        Some(budget) => budget,
        None => host_budget()
            .ok_or_else(|| wrong_input("this system does not say how much memory is free: give --budget"))?,
    };
    let downloads = match &args.downloads {
        Some(folder) => folder.clone(),
        None => Cache::place(|name| std::env::var_os(name))?.join("downloads-v1"),
    };
    let store = Store::new(downloads, Arc::new(HttpTransport::new()));
    let device = open::run_device(args.device, args.threads)?;
    reporter.detail("Device", device.description());
    let verbose = reporter.verbosity() > 0;
    let listener = Box::new(move |event: &Event<'_>| {
        if verbose && !matches!(event, Event::Loading { .. }) {
            eprintln!("{event:?}");
        }
    });
    let loader = PackageLoader::new(package, device, Some(store));
    let server = Server::new(Manager::new(loader, budget, Some(listener)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let address = (args.host.as_str(), args.port);
        let socket = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?;
        let local = socket.local_addr()?;
        if !local.ip().is_loopback() {
            reporter.warning(format_args!("{local} can be reached from other machines, and asks for no password"));
        }
        // Programs that start the server read the port from this line.
        reporter.line(format_args!("listening on http://{local}/v1 (budget {budget} bytes)"))?;
        axum::serve(socket, server.router()).await.context("the server failed")
    })
}
