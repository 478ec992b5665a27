//! The steps of a rebuild that were decided: `rebuild.json` in the data directory. It holds names and
//! addresses, and nothing that is stored.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keepd_env::Env;
use serde_json::{Value, json};

const NAME: &str = "rebuild.json";

/// A rebuild that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) cluster_id: u64,
    pub(super) name: String,
    pub(super) peer_urls: Vec<String>,
    /// It never voted, and is not promoted.
    pub(super) is_learner: bool,
    pub(super) old_id: u64,
    /// The id under which it was added again.
    pub(super) new_id: Option<u64>,
    /// The name to which its old directory is moved.
    pub(super) aside: Option<String>,
    /// The new directory is there: only catching up is left.
    pub(super) is_made: bool,
}

impl Record {
    pub(super) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(NAME)
    }

    /// The record, if a rebuild is under way.
    pub(super) fn read(env: &Env, data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(data_dir);
        if !env.disk.exists(&path)? {
            return Ok(None);
        }
        let decoded = serde_json::from_slice(&env.disk.read(&path)?).ok();
        let record = decoded.as_ref().and_then(Self::decode);
        record.map(Some).with_context(|| {
            format!(
                "{} cannot be read; remove it to begin anew, after a look at the member list",
                path.display()
            )
        })
    }

    /// Writes it, durably.
    pub(super) fn write(&self, env: &Env, data_dir: &Path) -> anyhow::Result<()> {
        let bytes = self.encode().to_string();
        Ok(env.disk.replace(&Self::path(data_dir), bytes.as_bytes())?)
    }

    fn encode(&self) -> Value {
        json!({
            "cluster_id": format!("{:x}", self.cluster_id),
            "name": self.name,
            "peer_urls": self.peer_urls,
            "is_learner": self.is_learner,
            "old_id": format!("{:x}", self.old_id),
            "new_id": self.new_id.map(|id| format!("{id:x}")),
            "aside": self.aside,
            "is_made": self.is_made,
        })
    }

    fn decode(value: &Value) -> Option<Self> {
        let id = |name: &str| u64::from_str_radix(value[name].as_str()?, 16).ok();
        let urls = value["peer_urls"].as_array()?.iter();
        let aside = value["aside"].as_str().map(str::to_owned);
        let is_plain = |name: &String| !name.contains('/') && name != "..";
        Some(Self {
            cluster_id: id("cluster_id")?,
            name: value["name"].as_str()?.to_owned(),
            peer_urls: urls.map(|url| url.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            is_learner: value["is_learner"].as_bool()?,
            old_id: id("old_id")?,
            new_id: id("new_id"),
            aside: if aside.as_ref().is_none_or(is_plain) { aside } else { return None },
            is_made: value["is_made"].as_bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_strange_one_is_refused() {
        let (dir, env) = (TempDir::new("rebuild-record"), Env::real());
        assert_eq!(Record::read(&env, dir.path()).unwrap(), None);
        let mut record = Record {
            cluster_id: u64::MAX,
            name: "a".to_owned(),
            peer_urls: vec!["https://h:1".to_owned()],
            is_learner: false,
            old_id: 1,
            new_id: None,
            aside: None,
            is_made: false,
        };
        record.write(&env, dir.path()).unwrap();
        assert_eq!(Record::read(&env, dir.path()).unwrap(), Some(record.clone()));
        (record.new_id, record.aside) = (Some(7), Some("member.x".to_owned()));
        record.write(&env, dir.path()).unwrap();
        assert_eq!(Record::read(&env, dir.path()).unwrap(), Some(record.clone()));
        record.aside = Some("../elsewhere".to_owned());
        record.write(&env, dir.path()).unwrap();
        Record::read(&env, dir.path()).unwrap_err();
        let _path = dir.write(NAME, "{}");
        Record::read(&env, dir.path()).unwrap_err();
    }
}
