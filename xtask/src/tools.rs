//! The foreign programs that the tests run against, built from the Go modules that
//! `testing/interop` names.
//!
//! They lie outside `target`, in `$KEEPD_TOOLS` or the user's cache folder, in a folder named by
//! the hash of the `go.sum` that decides their content: a changed dependency builds anew, and
//! several checkouts share what is the same. A folder appears only when it is complete.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::Call;
use crate::root;

/// One Go module whose `tool` lines are built together.
struct ToolSet {
    name: &'static str,
    module: &'static str,
    /// Name of the binary, package that it is built from.
    binaries: &'static [(&'static str, &'static str)],
    /// Name of the binary, package whose tests it holds.
    tests: &'static [(&'static str, &'static str)],
    linker_flags: &'static str,
}

const ETCD: ToolSet = ToolSet {
    name: "etcd",
    module: "testing/interop",
    binaries: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
        ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
        ("benchmark", "go.etcd.io/etcd/v3/tools/benchmark"),
    ],
    tests: &[],
    linker_flags: "-s -w",
};

/// A module of its own: Kubernetes pins other versions of what etcd uses. Without the linker
/// flags `kubectl version` could not parse the server's.
const KUBE: ToolSet = ToolSet {
    name: "kube",
    module: "testing/interop/kube",
    binaries: &[
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    tests: &[],
    linker_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 \
        -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37",
};

/// etcd's own end-to-end tests.
const SUITE: ToolSet = ToolSet {
    name: "suite",
    module: "testing/interop/suite",
    binaries: &[],
    tests: &[("common.test", "go.etcd.io/etcd/tests/v3/common")],
    linker_flags: "-s -w",
};

/// The programs with which etcd's documentation makes certificates. A module of its own, so that
/// its versions decide nothing about etcd's.
const PKI: ToolSet = ToolSet {
    name: "pki",
    module: "testing/interop/pki",
    binaries: &[
        ("cfssl", "github.com/cloudflare/cfssl/cmd/cfssl"),
        ("cfssljson", "github.com/cloudflare/cfssl/cmd/cfssljson"),
    ],
    tests: &[],
    linker_flags: "-s -w",
};

/// Programs that open backups by hand, and an S3 server for them. The server takes two minutes to build on two
/// cores.
const BACKUP: ToolSet = ToolSet {
    name: "backup",
    module: "testing/interop/backup",
    binaries: &[
        ("age", "filippo.io/age/cmd/age"),
        ("age-keygen", "filippo.io/age/cmd/age-keygen"),
        ("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    ],
    tests: &[],
    linker_flags: "-s -w",
};

/// Object stores: an emulator of Google's, and `MinIO`. They take two and a half minutes to build on two cores.
const STORES: ToolSet = ToolSet {
    name: "stores",
    module: "testing/interop/stores",
    binaries: &[
        ("fake-gcs-server", "github.com/fsouza/fake-gcs-server"),
        ("minio", "github.com/minio/minio"),
    ],
    tests: &[],
    linker_flags: "-s -w",
};

/// Programs of this repository begin like this: `go.sum` does not tell when they change.
const OWN: &str = "github.com/keepd/keepd/";
const GO_BUILD: [&str; 3] = ["go", "build", "-buildvcs=false"];
const GO_TEST: [&str; 4] = ["go", "test", "-c", "-tags=e2e,flaky_integration"];

/// Prometheus' own check of alert rules; promtool itself takes four minutes to build, this half of one.
const RULES: ToolSet = ToolSet {
    name: "rules",
    module: "testing/interop/rules",
    binaries: &[("rules", "github.com/keepd/keepd/testing/interop/rules")],
    tests: &[],
    linker_flags: "-s -w",
};

/// kube-apiserver's own reader of encryption configurations.
const ENCRYPTION: ToolSet = ToolSet {
    name: "encryption",
    module: "testing/interop/encryption",
    binaries: &[("loader", "github.com/keepd/keepd/testing/interop/encryption")],
    tests: &[],
    linker_flags: "-s -w",
};

/// Programs of others that use etcd: an old etcdctl, and go-kit's discovery of services.
const FOREIGN: ToolSet = ToolSet {
    name: "foreign",
    module: "testing/interop/foreign",
    binaries: &[("etcdctl-3.5.0", "go.etcd.io/etcd/etcdctl/v3")],
    tests: &[("go-kit.test", "github.com/go-kit/kit/sd/etcdv3")],
    linker_flags: "-s -w",
};

/// controller-runtime's own tests, which start etcd and kube-apiserver.
const ENVTEST: ToolSet = ToolSet {
    name: "envtest",
    module: "testing/interop/envtest",
    binaries: &[],
    tests: &[("controller-runtime-client.test", "sigs.k8s.io/controller-runtime/pkg/client")],
    linker_flags: "-s -w",
};

/// CoreDNS, which answers from what lies in etcd.
const COREDNS: ToolSet = ToolSet {
    name: "coredns",
    module: "testing/interop/coredns",
    binaries: &[("coredns", "github.com/coredns/coredns")],
    tests: &[],
    linker_flags: "-s -w",
};

/// The folders of `cargo xtask interop --all`.
#[derive(Debug)]
pub(crate) struct ForeignTools {
    pub(crate) programs: PathBuf,
    pub(crate) coredns: PathBuf,
    pub(crate) envtest: PathBuf,
    pub(crate) python: PathBuf,
}

/// Builds what only `cargo xtask interop --all` runs.
pub(crate) fn build_foreign() -> Result<ForeignTools> {
    let (programs, coredns) = (build(&FOREIGN)?, build(&COREDNS)?);
    Ok(ForeignTools { programs, coredns, envtest: build(&ENVTEST)?, python: python()? })
}

/// A Python with the packages of `requirements.txt`.
fn python() -> Result<PathBuf> {
    let module = root().join("testing/interop/foreign");
    let folder = cache()?.join(format!("python-{}", hash_of(&module.join("requirements.txt"))?));
    let python = folder.join("bin/python");
    let path = folder.to_str().context("the cache folder's name is not UTF-8")?;
    if !folder.join("complete").is_file() {
        Call::new(&module, &["python3", "-m", "venv", "--clear", path]).run()?;
        let install = ["-m", "pip", "install", "-q", "-r", "requirements.txt"];
        let program = python.to_str().context("the cache folder's name is not UTF-8")?;
        Call::new(&module, &[&[program], &install[..]].concat()).run()?;
        std::fs::write(folder.join("complete"), "").context("mark the Python as complete")?;
    }
    Ok(python)
}

/// Azure's emulator of its blob storage, by npm; none where that is not installed.
fn azurite() -> Result<Option<PathBuf>> {
    let module = root().join("testing/interop/azurite");
    if Call::new(&module, &["npm", "--version"]).answer().is_none() {
        return Ok(None);
    }
    let folder = cache()?.join(format!("azurite-{}", hash_of(&module.join("package-lock.json"))?));
    if !folder.join("complete").is_file() {
        std::fs::create_dir_all(&folder).context("make the folder for Azurite")?;
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(module.join(file), folder.join(file)).context("copy Azurite's list")?;
        }
        // Nothing of it needs to be built, so no package runs a script of its own.
        let words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        Call::new(&folder, &words).run()?;
        std::fs::write(folder.join("complete"), "").context("mark Azurite as complete")?;
    }
    println!("azurite: {}", folder.display());
    Ok(Some(folder))
}

/// The folders that hold the built programs.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) etcd: PathBuf,
    pub(crate) kube: PathBuf,
    pub(crate) suite: PathBuf,
    pub(crate) pki: PathBuf,
    pub(crate) encryption: PathBuf,
    pub(crate) backup: PathBuf,
    pub(crate) stores: PathBuf,
    pub(crate) rules: PathBuf,
    pub(crate) azurite: Option<PathBuf>,
}

/// The version of the installed Go toolchain, if there is one.
pub(crate) fn go_version() -> Option<String> {
    Call::new(&root(), &["go", "version"]).answer().map(|text| text.trim().to_owned())
}

/// Builds what is not built yet.
pub(crate) fn build_all() -> Result<Tools> {
    if go_version().is_none() {
        bail!("building the tools needs Go 1.26 or newer (`go` is not in the PATH)");
    }
    let (etcd, kube, suite) = (build(&ETCD)?, build(&KUBE)?, build(&SUITE)?);
    let (encryption, backup) = (build(&ENCRYPTION)?, build(&BACKUP)?);
    let (stores, rules, azurite) = (build(&STORES)?, build(&RULES)?, azurite()?);
    let pki = build_pki()?;
    Ok(Tools { etcd, kube, suite, pki, encryption, backup, stores, rules, azurite })
}

/// Builds the programs that make certificates, which Rust tests use too.
pub(crate) fn build_pki() -> Result<PathBuf> {
    build(&PKI)
}

fn build(set: &ToolSet) -> Result<PathBuf> {
    let module = root().join(set.module);
    let folder = cache()?.join(format!("{}-{}", set.name, sum_hash(&module)?));
    let mut wanted = set.binaries.iter().chain(set.tests);
    if wanted.all(|(name, _)| folder.join(name).is_file()) {
        // Go itself knows whether one of ours has to be built again.
        for binary in set.binaries.iter().filter(|(_, package)| package.starts_with(OWN)) {
            compile(set, &module, &GO_BUILD, binary, &folder)?;
        }
        println!("{} tools: {}", set.name, folder.display());
        return Ok(folder);
    }
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    for binary in set.binaries {
        compile(set, &module, &GO_BUILD, binary, &partial)?;
    }
    for test in set.tests {
        compile(set, &module, &GO_TEST, test, &partial)?;
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("remove an incomplete tools folder")?;
    }
    std::fs::rename(&partial, &folder)
        .with_context(|| format!("rename the tools folder to {}", folder.display()))?;
    println!("{} tools: {}", set.name, folder.display());
    Ok(folder)
}

/// Compiles one program into a folder.
fn compile(
    set: &ToolSet,
    module: &Path,
    go: &[&str],
    (name, package): &(&str, &str),
    folder: &Path,
) -> Result<()> {
    let output = folder.join(name);
    let output = output.to_str().context("the cache folder's name is not UTF-8")?;
    let flags = format!("-ldflags={}", set.linker_flags);
    let call = [go, &[&flags, "-o", output, package]].concat();
    // As in the projects' own releases; nothing of them needs a C compiler then.
    Call::new(module, &call).env("CGO_ENABLED", "0").run()
}

fn cache() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = var("KEEPD_TOOLS") {
        return Ok(folder);
    }
    let base = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither KEEPD_TOOLS, XDG_CACHE_HOME nor HOME is set")?.join("keepd/tools"))
}

/// The name of what the module's `go.sum` decides.
fn sum_hash(module: &Path) -> Result<String> {
    hash_of(&module.join("go.sum"))
}

/// The first 16 hex digits of a file's SHA-256.
fn hash_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
