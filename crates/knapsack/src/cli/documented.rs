//! Every command line that the documentation or the help gives is one that is understood.

use super::Cli;
use clap::{Command, CommandFactory, error::ErrorKind};
use std::path::{Path, PathBuf};

/// The words of a command line, up to a comment or to what a shell does with it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in line.chars().chain([' ']) {
        match (quote, letter) {
            (Some(end), letter) if letter == end => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, ' ') if !word.is_empty() => {
                if matches!(word.as_str(), "#" | "|" | ">" | "&&" | "&" | "2>") {
                    return words;
                }
                words.push(std::mem::take(&mut word));
            }
            (None, ' ') => {}
            (_, letter) => word.push(letter),
        }
    }
    words
}

/// Command lines of ours: lines of a block of code, and code within text.
fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let (mut found, mut block) = (Vec::new(), false);
    for line in joined.lines() {
        if line.trim_start().starts_with("```") {
            block = !block;
        } else if block {
            found.extend(line.trim_start().trim_start_matches("$ ").starts_with("knapsack ").then_some(line));
        }
    }
    let prose: String = joined.split("```").step_by(2).collect();
    let inline = prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
    let lines = found.into_iter().map(|line| line.trim_start().trim_start_matches("$ ").to_owned());
    let all = lines.chain(inline.filter(|code| code.starts_with("knapsack ")));
    // A word in capitals stands for any verb.
    all.filter(|line| !line.starts_with("knapsack VERB")).collect()
}

fn documents(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    files.chain(folders.iter().flat_map(|folder| documents(folder))).collect()
}

/// What is not understood in a command line. Values may be stand-ins, and what is required may be left out.
fn unknown(line: &str) -> Option<String> {
    let error = Cli::command().try_get_matches_from(words(line)).err()?;
    let wrong = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    wrong.then(|| format!("{line}\n{error}"))
}

fn helps(command: &Command, found: &mut Vec<String>) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    found.extend(text.lines().map(str::trim).filter(|line| line.starts_with("knapsack ")).map(|line| {
        // What a line of help says about a command stands apart from it.
        line.split("   ").next().unwrap_or(line).to_owned()
    }));
    command.get_subcommands().for_each(|command| helps(command, found));
}

#[test]
fn what_is_documented_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = documents(&root.join("docs"));
    files.extend(documents(&root.join("examples")));
    files.extend(["README.md", "ARCHITECTURE.md", "BENCHMARKS.md"].map(|name| root.join(name)));
    let mut lines = Vec::new();
    for file in files {
        lines.extend(commands(&std::fs::read_to_string(file).unwrap()));
    }
    let documented = lines.len();
    helps(&Cli::command(), &mut lines);
    assert!(documented > 40 && lines.len() > documented + 20, "{documented} of {}", lines.len());
    let problems: Vec<String> = lines.iter().filter_map(|line| unknown(line)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_wrong_command_is_found() {
    let text =
        "Say `knapsack run dist -p x`.\n```\n$ knapsack chekc\nknapsack plan \\\n  --store none | less -R\n```\n";
    let commands = commands(text);
    assert_eq!(commands, ["knapsack chekc", "knapsack plan    --store none | less -R", "knapsack run dist -p x"]);
    let wrong: Vec<bool> = commands.iter().map(|line| unknown(line).is_some()).collect();
    assert_eq!(wrong, [true, false, true]);
}
