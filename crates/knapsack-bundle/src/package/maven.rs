//! The Maven repository of a package: what Gradle takes by one line and one dependency. Its one library holds the model libraries for
//! each ABI, the app config and the bundled weights as assets.

use super::output::{Content, Output};
use super::record::Record;
use super::{PackageContents, Runtime, VERSION, WriteOptions};
use crate::android::{Dependency, MavenArtifact, aar_members};
use crate::archive::{self, Member, Source};
use crate::digest::Wanted;
use crate::error::BundleError;
use sha2::{Digest, Sha256};

/// The repository's folder in the package.
const FOLDER: &str = "maven";
/// Where an app finds its models among its assets.
const ASSETS: &str = "assets/knapsack";
/// Drivers of GPUs that the app may load, under the names that phones give them.
const MANIFEST: &str = include_str!("models-manifest.xml");
/// What keeps the runtime's classes in an app that is shrunk.
const RULES: &str = include_str!("../../../../sdk/android/consumer-rules.pro");

/// What the library has beside what every library has: the libraries, and the bundle if it is to be there.
fn members(others: &[Output], with_bundle: bool) -> Vec<Member> {
    let mut members = vec![Member::bytes("proguard.txt", RULES.as_bytes())];
    for output in others {
        let name = match (output.path.strip_prefix("lib/"), output.path.strip_prefix("bundle/")) {
            (Some(path), _) => format!("jni/{path}"),
            (_, Some(path)) if with_bundle => format!("{ASSETS}/{path}"),
            _ => continue,
        };
        members.push(match &output.content {
            Content::Bytes(bytes) | Content::Libraries(bytes, _) => Member::bytes(name, bytes.clone()),
            Content::Copy(path, _, crc32) => {
                Member { name, size: output.size, crc32: *crc32, source: Source::File(path.clone()) }
            }
            Content::Zip(_) => continue,
        });
    }
    members
}

/// The library that holds the models.
const MODELS: MavenArtifact<'static> = MavenArtifact {
    group: "ai.knapsack",
    name: "models",
    version: VERSION,
    description: "Language models, packaged by knapsack",
    dependencies: &[Dependency { group: "ai.knapsack", name: "runtime", version: VERSION, packaging: "aar" }],
};

/// The library that is the runtime, where `knapsack sdk build` put it.
pub const RUNTIME: MavenArtifact<'static> =
    MavenArtifact { name: "runtime", description: "", dependencies: &[], ..MODELS };

/// The files of the repository.
pub(super) struct Repository {
    pub(super) outputs: Vec<Output>,
    /// The bundle is more than an archive holds: the library has none of it.
    pub(super) bundle_apart: bool,
}

/// The repository, made of the libraries and the bundle among the others. `before`: what an earlier run wrote, whose hash is taken
/// where the archive would have the same members.
pub(super) fn repository(
    others: &[Output],
    package: &PackageContents,
    options: &WriteOptions<'_>,
    before: Option<&Record>,
) -> Result<Repository, BundleError> {
    let whole = aar_members(MANIFEST, members(others, true))?;
    let bundle_apart = !archive::size(&whole).is_ok_and(|size| size <= package.archive_bytes);
    let recipe = recipe(bundle_apart, others.iter().map(|output| (&*output.path, &*output.sha256)));
    let members = if bundle_apart { aar_members(MANIFEST, members(others, false))? } else { whole };
    let path = |extension| format!("{FOLDER}/{}/{}", MODELS.folder(), MODELS.file(extension));
    let size = archive::size(&members)?;
    let aar = path("aar");
    let known = before.and_then(|record| record.files.get(&aar));
    let known = known.filter(|known| known.recipe.as_ref() == Some(&recipe) && known.size == size);
    let sha256 = known.map(|known| known.sha256.clone()).unwrap_or_default();
    let content = Content::Zip(members.into());
    let mut outputs = vec![
        Output { recipe: Some(recipe), ..Output::new(aar, size, sha256, content) },
        Output::bytes(path("pom"), MODELS.pom().into_bytes()),
    ];
    if let Runtime::Maven(repository) = &package.runtime {
        for extension in ["aar", "pom"] {
            let path = format!("{}/{}", RUNTIME.folder(), RUNTIME.file(extension));
            let from = repository.join(&path);
            let hashed = options.digests.of(&from, Wanted::MEMBER).map_err(BundleError::io("read", &from))?;
            outputs.push(Output::copy(format!("{FOLDER}/{path}"), from, &hashed));
        }
    }
    Ok(Repository { outputs, bundle_apart })
}

/// What the archive is made of, for telling whether it would be another: everything that its bytes depend on.
fn recipe<'a>(bundle_apart: bool, files: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut sum = Sha256::new();
    let form = if bundle_apart { "apart" } else { "whole" };
    for text in [VERSION, MANIFEST, RULES, form].into_iter().chain(files.flat_map(|(path, sha256)| [path, sha256])) {
        sum.update((text.len() as u64).to_le_bytes());
        sum.update(text);
    }
    hex::encode(sum.finalize())
}
