//! Answers of the test hub, and its misbehaviour.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::repository::{Access, Content, HubFile, HubRepository};
use super::wire::{Body, Parsed, Reply, read_request};
use super::{Fault, Host, Request, Shared, State};

/// Longest time that a stalled connection stays open.
const STALL: Duration = Duration::from_secs(30);
/// Bytes that are sent at once.
const PIECE: usize = 32 << 10;
/// Entries of [`Fault::EndlessTree`].
const ENDLESS: usize = 1_000_000;

pub(super) fn accept(listener: &TcpListener, host: Host, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(stream) = stream {
            let shared = Arc::clone(shared);
            std::thread::spawn(move || connection(stream, host, &shared));
        }
    }
}

/// Serves a connection until either side ends it. Errors mean that the client went away.
fn connection(stream: TcpStream, host: Host, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Ok(Some(request)) = read_request(&mut reader) {
        if shared.stop.load(Ordering::Relaxed) || !matches!(respond(&request, host, shared, &mut writer), Ok(true)) {
            break;
        }
    }
    let _ = writer.shutdown(Shutdown::Both);
}

/// Whether the connection can go on.
fn respond(request: &Parsed, host: Host, shared: &Shared, stream: &mut TcpStream) -> io::Result<bool> {
    let (reply, fault, pause, index) = {
        let mut state = shared.state();
        let fault = state.take_fault(&format!("{} {host:?} {}", request.method, request.path).to_lowercase());
        let mut request = request.clone();
        if matches!(fault, Some(Fault::IgnoreRange | Fault::CutWhole(_))) {
            request.headers.remove("range");
        }
        let reply = match host {
            Host::Hub => match request.path.strip_prefix("/store/") {
                Some(name) => state.object(name, &request),
                None => state.hub(&request, shared, fault.as_ref()),
            },
            Host::Storage => state.storage(&request),
        };
        let reply = disturb(reply, fault.as_ref());
        let authorization = request.headers.get("authorization").cloned();
        let (path, range, status) = (request.path.clone(), request.range().map(|(first, _)| first), reply.status);
        state.log.push(Request { host, path, range, authorization, status, sent: 0 });
        (reply, fault, state.pause, state.taken + state.log.len() - 1)
    };
    let length = reply.length();
    let (announced, sent) = match fault {
        Some(Fault::CutAfter(count) | Fault::CutWhole(count) | Fault::StallAfter(count)) => (length, length.min(count)),
        Some(Fault::Shorter(count)) => (length - count.min(length), length - count.min(length)),
        Some(Fault::Longer(count)) => (length + count, length),
        _ => (length, length),
    };
    stream.write_all(reply.head(announced).as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let (piece, pause) = match fault {
        Some(Fault::Drip(bytes, each)) => (bytes, Some(each)),
        _ => (PIECE, pause),
    };
    let counted = reply.send_body(stream, sent, piece, &mut || {
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
    })?;
    let mut state = shared.state();
    if let Some(entry) = index.checked_sub(state.taken).and_then(|index| state.log.get_mut(index)) {
        entry.sent = counted;
    }
    drop(state);
    match fault {
        Some(Fault::StallAfter(_)) => stall(shared, stream),
        Some(Fault::Longer(count)) => stream.write_all(&vec![b'x'; count as usize])?,
        _ => {}
    }
    Ok(!matches!(fault, Some(Fault::CutAfter(_) | Fault::CutWhole(_) | Fault::StallAfter(_))))
}

/// Keeps the connection open and silent, until the client closes it.
fn stall(shared: &Shared, stream: &TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    let end = std::time::Instant::now() + STALL;
    while !shared.stop.load(Ordering::Relaxed) && std::time::Instant::now() < end {
        if matches!(stream.peek(&mut [0]), Ok(0)) {
            return;
        }
    }
}

fn disturb(mut reply: Reply, fault: Option<&Fault>) -> Reply {
    match fault {
        Some(Fault::Status(status)) => Reply::new(*status, "made to fail"),
        Some(Fault::TooManyRequests(wait)) => {
            let reply = Reply::new(429, "slow down");
            wait.iter().fold(reply, |reply, wait| reply.with("Retry-After", wait))
        }
        Some(Fault::RedirectTo(address)) => Reply::new(302, "").with("Location", address),
        Some(Fault::Body(text)) => Reply::new(200, text),
        Some(Fault::Compressed) => reply.with("Content-Encoding", "gzip"),
        Some(Fault::OtherRange) => {
            for (name, value) in &mut reply.headers {
                if name == "Content-Range" {
                    *value = value.replacen("bytes ", "bytes 1", 1);
                }
            }
            reply
        }
        Some(Fault::WrongBytes) => {
            if let Body::Content { content: Content::Bytes(bytes), .. } = &mut reply.body {
                *bytes = bytes.iter().map(|byte| byte ^ 0x20).collect();
            }
            reply
        }
        _ => reply,
    }
}

impl State {
    fn take_fault(&mut self, line: &str) -> Option<Fault> {
        let rule = self.faults.iter_mut().find(|rule| rule.times > 0 && line.contains(&rule.part.to_lowercase()))?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    /// `/store/…`: objects that are written and read, as any web server may keep them.
    fn object(&mut self, name: &str, request: &Parsed) -> Reply {
        let there = self.objects.get(name);
        match (request.method.as_str(), there) {
            ("PUT", Some(_)) if request.headers.contains_key("if-none-match") => Reply::new(412, ""),
            ("PUT", _) => {
                self.objects.insert(name.to_owned(), request.body.clone().into());
                Reply::new(201, "")
            }
            ("DELETE", _) => {
                self.objects.remove(name);
                Reply::new(204, "")
            }
            (_, None) => Reply::new(404, "no such object"),
            (_, Some(bytes)) => {
                let length = bytes.len() as u64;
                let body = Body::Content { content: Content::Bytes(std::sync::Arc::clone(bytes)), from: 0, length };
                Reply { status: 200, headers: Vec::new(), body }
            }
        }
    }

    /// `/api/models/…`, `/api/resolve-cache/models/…`, `/org/name/resolve/…`.
    fn hub(&self, request: &Parsed, shared: &Shared, fault: Option<&Fault>) -> Reply {
        let path = request.path.trim_start_matches('/');
        let api = path.strip_prefix("api/models/");
        let stored = path.strip_prefix("api/resolve-cache/models/");
        let parts: Vec<&str> = api.or(stored).unwrap_or(path).splitn(5, '/').collect();
        let [organisation, name, ..] = parts[..] else { return Reply::new(404, "no such page") };
        let name = format!("{organisation}/{name}");
        if let Some(new) = self.renamed.get(&name) {
            return Reply::new(307, "").with("Location", request.path.replacen(&name, new, 1));
        }
        let Some(commits) = self.repositories.get(&name) else { return unknown(request) };
        let (verb, revision) = match (stored, &parts[2..]) {
            (Some(_), [revision, ..]) => ("stored", *revision),
            (None, [verb, revision, ..]) => (*verb, *revision),
            (None, []) => ("revision", "main"),
            _ => return Reply::new(404, "no such page"),
        };
        // A revision may hold slashes, but only as the last part of an address of the API.
        let revision = if verb == "revision" && parts.len() > 4 { parts[3..].join("/") } else { revision.to_owned() };
        let commit = self.branches.get(&name).and_then(|branches| branches.get(&revision)).unwrap_or(&revision);
        let Some(repository) = commits.get(commit) else {
            return Reply::new(404, "")
                .with("X-Error-Code", "RevisionNotFound")
                .with("X-Error-Message", "Invalid rev id");
        };
        if let Some(refusal) = refusal(repository, request) {
            return refusal;
        }
        let rest = parts.get(4).copied().unwrap_or_default();
        match verb {
            "revision" => info(&name, commit, repository),
            "tree" => self.tree(&name, commit, repository, request, shared, fault),
            "resolve" => resolve(&name, commit, repository, rest, shared, fault),
            "stored" => {
                let path = parts[3..].join("/");
                let stored = |file| content(file, request).with("X-Repo-Commit", commit.as_str());
                repository.files.get(&path).map_or_else(entry_not_found, stored)
            }
            _ => Reply::new(404, "no such page"),
        }
    }

    fn storage(&self, request: &Parsed) -> Reply {
        if request.headers.contains_key("authorization") {
            return Reply::new(400, "only one authentication mechanism is allowed");
        }
        let wanted = request.path.trim_start_matches('/');
        let files = self.repositories.values().flat_map(|commits| commits.values()).flat_map(|r| r.files.values());
        let file = files.into_iter().find(|file| file.lfs && file.sha256 == wanted);
        match file {
            Some(file) if request.query.starts_with("signature=") => content(file, request),
            Some(_) => Reply::new(403, "the address is not signed"),
            None => Reply::new(404, "no such object"),
        }
    }

    fn tree(
        &self,
        name: &str,
        commit: &str,
        repository: &HubRepository,
        request: &Parsed,
        shared: &Shared,
        fault: Option<&Fault>,
    ) -> Reply {
        let start =
            request.query.split('&').find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0usize);
        let next = |cursor: usize| {
            format!("http://{}/api/models/{name}/tree/{commit}?recursive=false&cursor={cursor}", shared.hub)
        };
        let link = |reply: Reply, url: &str| reply.with("Link", format!("<{url}>; rel=\"next\""));
        if fault == Some(&Fault::EndlessTree) {
            let entries: Vec<_> = (start..(start + 1000).min(ENDLESS))
                .map(|i| entry(&format!("file-{i}.txt"), 1, None, &"0".repeat(40)))
                .collect();
            return link(Reply::new(200, json!(entries).to_string()), &next(start + 1000));
        }
        let mut entries: Vec<_> = repository
            .files
            .iter()
            .map(|(path, file)| {
                entry(path, file.content.size(), file.lfs.then_some(file.sha256.as_str()), &file.git_oid)
            })
            .collect();
        entries.push(json!({"type": "directory", "oid": "0".repeat(40), "size": 0, "path": "onnx"}));
        if let Some(Fault::TreeName(name)) = fault {
            entries.push(entry(name, 1, None, &"0".repeat(40)));
        }
        let page: Vec<_> = entries.iter().skip(start).take(self.page).collect();
        let reply = Reply::new(200, json!(page).to_string());
        match fault {
            Some(Fault::NextPage(url)) => link(reply, url),
            _ if start + self.page < entries.len() => link(reply, &next(start + self.page)),
            _ => reply,
        }
    }
}

fn entry(path: &str, size: u64, sha256: Option<&str>, oid: &str) -> serde_json::Value {
    let mut entry = json!({"type": "file", "oid": oid, "size": size, "path": path});
    if let Some(sha256) = sha256 {
        entry["lfs"] = json!({"oid": sha256, "size": size, "pointerSize": 135});
        entry["xetHash"] = json!(sha256);
    }
    entry
}

/// As the hub: without a token it does not tell missing from private.
fn unknown(request: &Parsed) -> Reply {
    let status = if request.headers.contains_key("authorization") { 404 } else { 401 };
    Reply::new(status, "").with("X-Error-Code", "RepoNotFound").with("X-Error-Message", "Repository not found")
}

fn entry_not_found() -> Reply {
    Reply::new(404, "").with("X-Error-Code", "EntryNotFound").with("X-Error-Message", "Entry not found")
}

fn refusal(repository: &HubRepository, request: &Parsed) -> Option<Reply> {
    let token = request.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
    match &repository.access {
        Access::Public => None,
        Access::Private(expected) | Access::Gated(expected) if token == Some(expected) => None,
        Access::Private(_) => Some(unknown(request)),
        Access::Gated(_) => {
            let status = if token.is_some() { 403 } else { 401 };
            let message = "Access to this model is restricted";
            Some(Reply::new(status, "").with("X-Error-Code", "GatedRepo").with("X-Error-Message", message))
        }
    }
}

fn info(name: &str, commit: &str, repository: &HubRepository) -> Reply {
    let siblings: Vec<_> = repository.files.keys().map(|path| json!({"rfilename": path})).collect();
    let gated = if matches!(repository.access, Access::Gated(_)) { json!("auto") } else { json!(false) };
    let info = json!({
        "_id": "0", "id": name, "modelId": name, "sha": commit, "private": false, "gated": gated, "disabled": false,
        "tags": [], "downloads": 0, "likes": 0, "createdAt": "2026-01-01T00:00:00.000Z", "siblings": siblings, "cardData": repository.card
    });
    Reply::new(200, info.to_string()).with("Content-Type", "application/json; charset=utf-8")
}

fn resolve(
    name: &str,
    commit: &str,
    repository: &HubRepository,
    path: &str,
    shared: &Shared,
    fault: Option<&Fault>,
) -> Reply {
    let Some(file) = repository.files.get(path) else { return entry_not_found() };
    if fault == Some(&Fault::Pointer) {
        return Reply::new(200, file.pointer()).with("X-Repo-Commit", commit);
    }
    let reply = if file.lfs {
        let address = format!("http://{}/{}?signature=0123456789", shared.storage, file.sha256);
        let etag = format!("\"{}\"", file.sha256);
        Reply::new(302, "").with("Location", address).with("X-Linked-Etag", etag)
    } else {
        Reply::new(307, "").with("Location", format!("/api/resolve-cache/models/{name}/{commit}/{path}"))
    };
    let reply = reply.with("X-Linked-Size", file.content.size().to_string());
    reply.with("X-Repo-Commit", commit).with("ETag", format!("\"{}\"", file.etag()))
}

fn content(file: &HubFile, request: &Parsed) -> Reply {
    let size = file.content.size();
    let reply = |status, from, end: u64| {
        let body = Body::Content { content: file.content.clone(), from, length: end - from };
        let reply = Reply { status, headers: Vec::new(), body };
        reply.with("ETag", format!("\"{}\"", file.etag())).with("Accept-Ranges", "bytes")
    };
    match request.range() {
        None => reply(200, 0, size),
        Some((from, _)) if from >= size => Reply::new(416, "").with("Content-Range", format!("bytes */{size}")),
        Some((from, last)) => {
            let end = last.map_or(size, |last| size.min(last + 1)).max(from);
            reply(206, from, end).with("Content-Range", format!("bytes {from}-{}/{size}", end.saturating_sub(1)))
        }
    }
}
