//! `cargo xtask dist`: the binary to install, `target/dist/keepd`: stripped, and it tells the commit
//! it was built from.
//!
//! An ordinary build does neither: its panics show symbols, and a commit recorded in it would be
//! wrong after the next edit.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Call;
use crate::{root, suite};

/// The variable that the build reads the commit from.
const VARIABLE: &str = "KEEPD_COMMIT";
/// The file that `git archive` writes the commit into, as `.gitattributes` says.
const ARCHIVED: &str = ".commit";

/// Builds the binary, and checks what it says of itself.
pub(crate) fn run() -> Result<()> {
    let root = root();
    let commit = commit(&root)?;
    let words = ["cargo", "rustc", "--release", "--package", "keepd", "--bin", "keepd"];
    let strip = ["--", "-C", "strip=symbols"];
    let words: Vec<&str> = words.into_iter().chain(strip).collect();
    Call::new(&root, &words).env(VARIABLE, &commit).run()?;
    let built = suite::keepd_binary();
    let binary = installed(&built)?;
    let version = Call::new(&root, &[&binary.display().to_string(), "version"]).answer();
    let version = version.context("the binary does not run")?;
    ensure!(version.contains(&commit), "the binary does not tell its commit:\n{version}");
    println!("{}\n{version}", binary.display());
    Ok(())
}

/// Copies the binary to where no ordinary build replaces it.
fn installed(built: &Path) -> Result<PathBuf> {
    let target = built.parent().and_then(Path::parent).context("no target folder")?;
    let folder = target.join("dist");
    std::fs::create_dir_all(&folder).context("make the folder")?;
    let binary = folder.join("keepd");
    std::fs::copy(built, &binary).context("copy the binary")?;
    Ok(binary)
}

/// The commit of the sources: given, that of the checkout, or that of an archive of one.
fn commit(root: &Path) -> Result<String> {
    if let Ok(given) = std::env::var(VARIABLE) {
        return Ok(given);
    }
    if root.join(".git").exists() {
        let answer = |words| Call::new(root, words).answer().context("git does not answer");
        let commit = answer(&["git", "rev-parse", "HEAD"])?.trim().to_owned();
        let is_modified = !answer(&["git", "status", "--porcelain"])?.is_empty();
        return Ok(if is_modified { format!("{commit}-modified") } else { commit });
    }
    let text = std::fs::read_to_string(root.join(ARCHIVED)).context("read .commit")?;
    archived(&text)
}

fn archived(text: &str) -> Result<String> {
    let commit = text.trim();
    if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("the sources are neither a checkout nor an archive made by git: set {VARIABLE}");
    }
    Ok(commit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::archived;

    #[test]
    fn an_archive_has_its_commit_and_a_copied_checkout_has_none() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(archived(&format!("{commit}\n")).unwrap(), commit);
        let error = archived("$Format:%H$\n").unwrap_err().to_string();
        assert!(error.contains("set KEEPD_COMMIT"), "{error}");
    }
}
