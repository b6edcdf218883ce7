//! Where Redis is: one server, a master that Sentinel names, or a cluster.
//!
//! `redis`, `valkey`, with an `s` at the end for TLS, and with `+sentinel` or `+cluster` behind it for the other two, whose
//! hosts are separated by commas: `rediss+sentinel://user:password@a:26379,b:26379/mymaster`, `redis+cluster://a,b,c`.

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult,
    TlsCertificates, TlsMode,
};

/// What can be connected to.
#[derive(Clone)]
pub enum Address {
    One(Client),
    Sentinel {
        hosts: Vec<ConnectionAddr>,
        master: String,
        login: ConnectionInfo,
        trust: Option<TlsCertificates>,
    },
    Cluster {
        hosts: Vec<ConnectionInfo>,
        trust: Option<TlsCertificates>,
    },
}

impl Address {
    /// `authority`: certificates in PEM to trust instead of the machine's. The reason of a failure names no secrets.
    pub fn parse(url: &str, authority: Option<Vec<u8>>) -> Result<Address, String> {
        let trust = authority.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err("its scheme is none of redis, rediss, valkey, valkeys".into()),
        };
        if trust.is_some() && !tls {
            return Err("it speaks no TLS, and yet there is a store.redis.ca".into());
        }
        let parts = Parts::of(rest);
        let hosts = |path: &str| -> Result<Vec<ConnectionInfo>, String> {
            parts
                .hosts
                .split(',')
                .map(|host| info(&format!("{scheme}://{}{host}{path}", parts.login)))
                .collect()
        };
        match kind {
            "" => {
                let info = info(url)?;
                let client = match trust {
                    Some(trust) => Client::build_with_tls(info, trust),
                    None => Client::open(info),
                };
                client.map(Address::One).map_err(|error| plain(&error))
            }
            "cluster" => Ok(Address::Cluster { hosts: hosts(&parts.path)?, trust }),
            "sentinel" => {
                let mut path = parts.path.trim_matches('/').splitn(2, '/');
                let master = path.next().filter(|name| !name.is_empty());
                let master = master.ok_or("it does not name the master: …/mymaster")?.to_owned();
                let database = path.next().map_or(String::new(), |number| format!("/{number}"));
                let infos = hosts(&database)?;
                let login = infos.first().cloned().ok_or("it names no host")?;
                let hosts = infos.iter().map(|info| info.addr().clone()).map(sentinel_port).collect();
                Ok(Address::Sentinel { hosts, master, login, trust })
            }
            _ => Err("only +sentinel and +cluster are known".into()),
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Address::Cluster { .. })
    }
}

/// Asks the sentinels for the master. They are asked without a login.
pub fn sentinels(
    hosts: &[ConnectionAddr],
    master: &str,
    login: &ConnectionInfo,
    trust: Option<&TlsCertificates>,
) -> RedisResult<SentinelClient> {
    let mut builder = SentinelClientBuilder::new(hosts.iter().cloned(), master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(login.redis_settings().db());
    if let ConnectionAddr::TcpTls { insecure, .. } = login.addr() {
        let mode = if *insecure { TlsMode::Insecure } else { TlsMode::Secure };
        builder = builder.set_client_to_redis_tls_mode(mode);
    }
    if let Some(user) = login.redis_settings().username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = login.redis_settings().password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(trust) = trust {
        builder = builder
            .set_client_to_redis_certificates(trust.clone())
            .set_client_to_sentinel_certificates(trust.clone());
    }
    builder.build()
}

/// A cluster's client, before its connections.
pub fn cluster(
    hosts: &[ConnectionInfo],
    trust: Option<&TlsCertificates>,
) -> redis::cluster::ClusterClientBuilder {
    let builder = ClusterClient::builder(hosts.iter().cloned()).use_protocol(ProtocolVersion::RESP3);
    match trust {
        Some(trust) => builder.certs(trust.clone()),
        None => builder,
    }
}

struct Parts<'a> {
    /// With its `@`, or empty.
    login: &'a str,
    hosts: &'a str,
    path: String,
}

impl Parts<'_> {
    fn of(rest: &str) -> Parts<'_> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let hosts_at = authority.rfind('@').map_or(0, |at| at + 1);
        let (login, hosts) = authority.split_at(hosts_at);
        Parts { login, hosts, path: path.to_owned() }
    }
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|error| plain(&error))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings))
}

/// The library takes the servers' own port for one that is not said.
fn sentinel_port(address: ConnectionAddr) -> ConnectionAddr {
    match address {
        ConnectionAddr::Tcp(host, 6379) => ConnectionAddr::Tcp(host, 26379),
        ConnectionAddr::TcpTls { host, port: 6379, insecure, tls_params } => {
            ConnectionAddr::TcpTls { host, port: 26379, insecure, tls_params }
        }
        other => other,
    }
}

/// Without the detail, which may quote the address with its password.
fn plain(error: &redis::RedisError) -> String {
    error.category().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_address_is_understood() {
        for url in ["redis://h", "valkey://u:p@h:1/2", "rediss://:p@h", "valkeys://h#insecure"] {
            assert!(matches!(Address::parse(url, None), Ok(Address::One(_))), "{url}");
        }
        let Ok(Address::Cluster { hosts, .. }) = Address::parse("valkey+cluster://u:p@a:7001,b", None) else {
            panic!("a cluster");
        };
        assert_eq!(hosts[1].addr(), &ConnectionAddr::Tcp("b".into(), 6379));
        assert_eq!(hosts[1].redis_settings().password(), Some("p"));
        let Ok(Address::Sentinel { hosts, master, login, .. }) =
            Address::parse("redis+sentinel://u:p@a,b:5/main/3", None)
        else {
            panic!("sentinels");
        };
        let address = |host: &str, port| ConnectionAddr::Tcp(host.into(), port);
        assert_eq!((hosts, master.as_str()), (vec![address("a", 26379), address("b", 5)], "main"));
        assert_eq!((login.redis_settings().username(), login.redis_settings().db()), (Some("u"), 3));
    }

    #[test]
    fn a_mistake_is_named_without_secrets() {
        for url in [
            "h:6379",
            "http://h",
            "redis+ring://u:s3cret@h",
            "redis+sentinel://u:s3cret@h",
            "redis://u:s3cret@h:port",
        ] {
            let error = Address::parse(url, None).err().expect("no address");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
