//! Settings of workers that share a database with other processes.

use super::{
    Config,
    table::{Setting, above_zero, plain, url},
};

pub(super) const LEASE: Setting = plain(
    "worker_lease_s",
    "Seconds after which a worker that is not heard of loses its runs to others, on PostgreSQL. A database that is away for \
     less moves no run.",
    "`75`",
    |c| Some(c.worker_lease_s.to_string()),
    |c, v| above_zero(&mut c.worker_lease_s, v),
);

pub(super) const ADDR: Setting = plain(
    "worker_addr",
    "Where a worker answers the other processes of its PostgreSQL database, which ask it for what is said live and what \
     changed in its sandboxes.",
    "`127.0.0.1:0`, which is a free port for processes of the same machine",
    |c| Some(c.worker_addr.to_string()),
    |c, v| {
        c.worker_addr = v.trim().parse().map_err(|_| "must be an address and a port, such as 10.0.0.5:8081")?;
        Ok(())
    },
);

pub(super) const URL: Setting = plain(
    "worker_url",
    "How the other processes reach `worker_addr`.",
    "from `worker_addr`",
    |c| c.worker_url.clone(),
    |c, v| {
        c.worker_url = Some(url(v)?);
        Ok(())
    },
);

impl Config {
    /// How other processes reach a worker that listens on this port.
    pub(crate) fn url_of_worker(&self, port: u16) -> String {
        let mut addr = self.worker_addr;
        addr.set_port(port);
        self.worker_url.clone().unwrap_or_else(|| format!("http://{addr}"))
    }
}
