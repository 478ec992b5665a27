//! The faults of a run, as the seed draws them: one on the links at a time, and hosts that die beside it.

use std::net::IpAddr;
use std::time::Duration;

use keepd_env::sim::CrashMode;
use keepd_env::{Random as _, SeededRandom};

use crate::cluster::{Cluster, address};

/// The faults of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Links cut in both directions or in one.
    pub cuts: u64,
    /// Links whose segments were held back, and all released at once.
    pub holds: u64,
    /// Links that became slow.
    pub delays: u64,
    /// Connections that were reset.
    pub resets: u64,
    /// Processes that died, some of them with the power.
    pub deaths: u64,
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cuts: self.cuts + other.cuts,
            holds: self.holds + other.holds,
            delays: self.delays + other.delays,
            resets: self.resets + other.resets,
            deaths: self.deaths + other.deaths,
        }
    }
}

/// A fault on the links that is under way.
#[derive(Clone, Debug)]
enum Fault {
    Cut(Vec<(IpAddr, IpAddr)>),
    OneWay(Vec<(IpAddr, IpAddr)>),
    Held(Vec<(IpAddr, IpAddr)>),
    Slow(Vec<(IpAddr, IpAddr)>),
}

/// The faults, one after the other.
#[derive(Debug)]
pub struct Weather {
    random: SeededRandom,
    /// The faults so far.
    pub count: Count,
    fault: Option<Fault>,
    /// The time at which the fault on the links ends, or the next one begins.
    changes_at: Duration,
    /// The member that is down, and the time at which it starts again.
    down: Option<(usize, Duration)>,
    dies_at: Duration,
}

impl Weather {
    /// The faults of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let random = SeededRandom::new(seed ^ 0x6661_756c);
        let mut weather = Self {
            random,
            count: Count::default(),
            fault: None,
            changes_at: Duration::ZERO,
            down: None,
            dies_at: Duration::ZERO,
        };
        weather.changes_at = weather.time(3000);
        weather.dies_at = weather.time(8000);
        weather
    }

    fn draw(&self, bound: u64) -> u64 {
        (self.random.next_u64() >> 8) % bound.max(1)
    }

    fn index(&self, len: usize) -> usize {
        usize::try_from(self.draw(len as u64)).expect("an index of something in memory")
    }

    fn time(&self, ms_max: u64) -> Duration {
        Duration::from_millis(50 + self.draw(ms_max))
    }

    /// Begins and ends faults; `tells` is told of members that start (true) and die.
    pub fn change(&mut self, cluster: &mut Cluster, mut tells: impl FnMut(usize, bool)) {
        let now = cluster.sim.elapsed();
        if let Some((member, until)) = self.down {
            if now >= until {
                cluster.start(member);
                tells(member, true);
                self.down = None;
                self.dies_at = now + self.time(6000);
            }
        } else if now >= self.dies_at {
            self.kill(cluster, &mut tells);
        }
        if now < self.changes_at {
            return;
        }
        match self.fault.take() {
            Some(fault) => {
                end(cluster, &fault);
                self.changes_at = now + self.time(2000);
            }
            None => {
                self.begin(cluster);
                self.changes_at = now + self.time(4000);
            }
        }
    }

    fn kill(&mut self, cluster: &mut Cluster, tells: &mut impl FnMut(usize, bool)) {
        let member = match (self.draw(2), cluster.leader()) {
            (0, Some(leader)) => leader,
            _ => self.index(cluster.size()),
        };
        let power = match self.draw(4) {
            0 => Some(CrashMode::LoseUnsynced),
            1 => Some(CrashMode::Torn { seed: self.random.next_u64() }),
            _ => None,
        };
        tells(member, false);
        cluster.kill(member, power);
        self.count.deaths += 1;
        self.down = Some((member, cluster.sim.elapsed() + self.time(4000)));
    }

    /// Links that a fault is on: one, all of a member's, or one with a client's.
    fn links(&self, cluster: &Cluster) -> Vec<(IpAddr, IpAddr)> {
        let size = cluster.size();
        let of = match (self.draw(3), cluster.leader()) {
            (0 | 1, Some(leader)) => leader,
            _ => self.index(size),
        };
        let others = (0..size).filter(|other| *other != of).map(address);
        let mut links: Vec<_> = others.map(|other| (address(of), other)).collect();
        match self.draw(4) {
            0 => links.truncate(1),
            1 => links.push((address(of), crate::CLIENT)),
            _ => {}
        }
        links
    }

    fn begin(&mut self, cluster: &Cluster) {
        let links = self.links(cluster);
        let sim = &cluster.sim;
        self.fault = match self.draw(6) {
            0 | 1 => {
                links.iter().for_each(|(one, other)| sim.partition(*one, *other));
                self.count.cuts += 1;
                Some(Fault::Cut(links))
            }
            2 => {
                let turned = self.draw(2) == 0;
                let turn = |(one, other)| if turned { (other, one) } else { (one, other) };
                let ways: Vec<_> = links.into_iter().map(turn).collect();
                ways.iter().for_each(|(from, to)| sim.partition_oneway(*from, *to));
                self.count.cuts += 1;
                Some(Fault::OneWay(ways))
            }
            3 => {
                links.iter().for_each(|(one, other)| sim.hold(*one, *other));
                self.count.holds += 1;
                Some(Fault::Held(links))
            }
            4 => {
                let delay = Duration::from_millis(20 + self.draw(300));
                links.iter().for_each(|(one, other)| sim.set_link_latency(*one, *other, delay));
                self.count.delays += 1;
                Some(Fault::Slow(links))
            }
            _ => {
                links.iter().for_each(|(one, other)| cluster.doors().reset(*one, *other));
                self.count.resets += 1;
                None
            }
        };
    }

    /// The end of all faults: every link is whole, and every member runs.
    pub fn clear(&mut self, cluster: &mut Cluster, mut tells: impl FnMut(usize, bool)) {
        if let Some(fault) = self.fault.take() {
            end(cluster, &fault);
        }
        if let Some((member, _)) = self.down.take() {
            cluster.start(member);
            tells(member, true);
        }
    }
}

fn end(cluster: &Cluster, fault: &Fault) {
    let sim = &cluster.sim;
    match fault {
        Fault::Cut(links) => links.iter().for_each(|(one, other)| sim.repair(*one, *other)),
        Fault::OneWay(ways) => {
            ways.iter().for_each(|(from, to)| sim.repair_oneway(*from, *to));
        }
        Fault::Held(links) => links.iter().for_each(|(one, other)| sim.release(*one, *other)),
        Fault::Slow(links) => {
            let usual = Duration::from_millis(1);
            links.iter().for_each(|(one, other)| sim.set_link_latency(*one, *other, usual));
        }
    }
}
