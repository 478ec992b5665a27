//! Checks that the ports are free, and names the process that has them if not.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

use super::Place;

/// Checks the ports of all members before anything is made.
pub(super) fn check(place: &Place) -> anyhow::Result<()> {
    for member in 1..=place.members {
        let (client_port, peer_port) = place.ports(member);
        check_one(client_port, "clients", "--client-port")?;
        check_one(peer_port, "members", "--peer-port")?;
    }
    Ok(())
}

fn check_one(port: u16, whom: &str, flag: &str) -> anyhow::Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let owner = match owner(port) {
                Some((process, name)) => {
                    format!("taken by {name} (process {process}); stop it with: kill {process}\n")
                }
                None => format!("taken; see by whom with: ss -ltnp 'sport = :{port}'\n"),
            };
            anyhow::bail!("port {port} for {whom} is {owner}or choose another port with {flag}")
        }
        Err(error) => anyhow::bail!(
            "port {port} for {whom} cannot be used: {error}; choose another with {flag}"
        ),
    }
}

/// The process that listens on a port and its name, as far as this user may see it.
fn owner(port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().flat_map(|table| inodes(table, port)).collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        let has_socket = targets.into_iter().any(|target| {
            let target = target.to_string_lossy();
            inodes.iter().any(|inode| target == format!("socket:[{inode}]"))
        });
        if has_socket {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((process, name.trim().to_owned()));
        }
    }
    None
}

/// The inodes of the sockets that listen on a port, from one of the kernel's tables.
fn inodes(table: &str, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_default();
    let of_line = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
        let listens = local.ends_with(&format!(":{port:04X}")) && *state == LISTENING;
        listens.then(|| (*inode).to_owned())
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_owner_and_the_way_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_one(port, "clients", "--client-port").unwrap_err().to_string();
        let process = std::process::id();
        assert!(error.starts_with(&format!("port {port} for clients is taken by ")), "{error}");
        assert!(error.contains(&format!("kill {process}\n")), "{error}");
        assert!(error.ends_with("or choose another port with --client-port"), "{error}");
        drop(listener);
        check_one(port, "clients", "--client-port").unwrap();
    }
}
