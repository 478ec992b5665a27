//! A snapshot on its way into a destination: sealed, uploaded, told of in a sidecar.

use std::collections::BTreeMap;
use std::io::Read;

use keepd_env::Random;

use crate::age::FileKey;
use crate::destination::Destination;
use crate::digest::Passed;
use crate::format::{Sealed, Sealing, SealingReader};
use crate::name::Name;
use crate::sidecar::{FORMAT, MemberFacts, Proven, Sidecar, StateFacts};
use crate::{Error, Moment, name};

/// A snapshot that is to be kept.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The cluster.
    pub cluster: u64,
    /// The member that it was read from.
    pub member: MemberFacts,
    /// The moment that it was begun.
    pub time: Moment,
    /// The one that asked for it.
    pub kind: name::Kind,
    /// The program that made it.
    pub made_by: String,
    /// Its state.
    pub state: StateFacts,
}

impl Snapshot {
    /// The name of its object.
    #[must_use]
    pub const fn name(&self, is_sealed: bool) -> Name {
        Name { time: self.time, revision: self.state.revision, kind: self.kind, is_sealed }
    }
}

/// Seals and uploads a snapshot, then its sidecar; not proven yet. As [`upload_object`].
///
/// # Errors
/// If it cannot be sealed or read, or the place refuses it.
pub fn upload<R: Read>(
    destination: &dyn Destination,
    snapshot: &Snapshot,
    content: R,
    sealing: &Sealing,
    random: &dyn Random,
    tell: &mut dyn FnMut(u64),
) -> Result<(Sidecar, Option<FileKey>), Error> {
    let (sidecar, file_key) = upload_object(destination, snapshot, content, sealing, random, tell)?;
    let name = snapshot.name(sealing.is_sealed());
    write_sidecar(destination, snapshot.cluster, &name, &sidecar)?;
    Ok((sidecar, file_key))
}

/// Seals and uploads a snapshot. Until the sidecar that it returns is written too it counts for nothing.
/// The file's key opens it again as long as it is in memory, also where all recipients' private keys are
/// elsewhere.
///
/// # Errors
/// If it cannot be sealed or read, or the place refuses it.
pub fn upload_object<R: Read>(
    destination: &dyn Destination,
    snapshot: &Snapshot,
    content: R,
    sealing: &Sealing,
    random: &dyn Random,
    tell: &mut dyn FnMut(u64),
) -> Result<(Sidecar, Option<FileKey>), Error> {
    let name = snapshot.name(sealing.is_sealed());
    let mut reader = SealingReader::new(content, sealing, random)?;
    let written = destination.put(&name.key(snapshot.cluster), &mut reader, tell)?;
    let Sealed { object: Passed { bytes, sha256 }, file_key } = reader.finish();
    if bytes != written {
        let (expected, found) = (bytes.to_string(), written.to_string());
        return Err(Error::Digest { what: "size", expected, found });
    }
    let sidecar = Sidecar {
        format: FORMAT,
        object: name.to_string(),
        bytes,
        sha256,
        cluster_id: format!("{:016x}", snapshot.cluster),
        member: snapshot.member.clone(),
        time: snapshot.time,
        kind: snapshot.kind,
        made_by: snapshot.made_by.clone(),
        state: snapshot.state.clone(),
        opened_by: sealing.names(),
        proven: None,
        unknown: BTreeMap::new(),
    };
    Ok((sidecar, file_key))
}

/// Notes a proof in the sidecar.
///
/// # Errors
/// If the place refuses it.
pub fn note_proof(
    destination: &dyn Destination,
    cluster: u64,
    name: &Name,
    sidecar: &Sidecar,
    proven: Proven,
) -> Result<Sidecar, Error> {
    let sidecar = Sidecar { proven: Some(proven), ..sidecar.clone() };
    keepd_env::failpoint!(BackupBeforeNoteProof);
    write_sidecar(destination, cluster, name, &sidecar)?;
    keepd_env::failpoint!(BackupAfterNoteProof);
    Ok(sidecar)
}

/// Writes a sidecar.
///
/// # Errors
/// If the place refuses it.
pub fn write_sidecar(
    destination: &dyn Destination,
    cluster: u64,
    name: &Name,
    sidecar: &Sidecar,
) -> Result<(), Error> {
    destination.replace(&name.sidecar_key(cluster), &sidecar.encode())
}
