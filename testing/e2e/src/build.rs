//! Builds of the binary that members run: the one that is tested, and an older one.

use std::path::PathBuf;

use testkit::Keepd;

/// A build, and the feature level that it stands for.
#[derive(Clone, Debug, Default)]
pub struct Build {
    program: Option<PathBuf>,
    level: Option<u32>,
}

impl Build {
    /// The build that is tested.
    #[must_use]
    pub fn tested() -> Self {
        Self::default()
    }

    /// An older one: the real one that `KEEPD_E2E_OLD_BIN` names, or the build with failpoints, which
    /// stands for one of a feature level; none if neither is there.
    ///
    /// # Panics
    /// If the variable names no file.
    #[must_use]
    pub fn older(level: u32) -> Option<Self> {
        if let Some(path) = std::env::var_os("KEEPD_E2E_OLD_BIN").map(PathBuf::from) {
            assert!(path.is_file(), "{} is not there", path.display());
            return Some(Self { program: Some(path), level: None });
        }
        let program = Keepd::failpoints_binary()?;
        Some(Self { program: Some(program), level: Some(level) })
    }

    /// Has a member run this build.
    #[must_use]
    pub fn of(&self, mut options: Keepd) -> Keepd {
        if let Some(program) = &self.program {
            options = options.program(program);
        }
        match self.level {
            Some(level) => options.env("KEEPD_TEST_FEATURE_LEVEL", &level.to_string()),
            None => options,
        }
    }
}
