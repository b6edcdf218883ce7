//! The machines of an app on Fly, each with a store of its own: streams' ids say on which of them they are.

use crate::auth::digest_of;
use crate::log::LogId;

/// This machine, and the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Machines {
    own: u32,
    others: Vec<(u32, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("FLY_MACHINE_ID, which Fly sets, is missing")]
    Nameless,
    #[error("does not name this machine, {0}")]
    Unlisted(String),
    #[error("\"{0}\" is not a machine's id")]
    Malformed(String),
    #[error("{0} and {1} cannot be told apart by a stream's id; make one of them anew")]
    Alike(String, String),
}

impl Machines {
    /// `all`: ids of machines, this one's among them. None if there are none.
    pub fn new(all: &[String], own: Option<&str>) -> Result<Option<Machines>, Unfit> {
        if all.is_empty() {
            return Ok(None);
        }
        let own = own.ok_or(Unfit::Nameless)?;
        for (at, machine) in all.iter().enumerate() {
            if machine.is_empty() || !machine.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(Unfit::Malformed(machine.clone()));
            }
            let alike = |other: &&String| tag(other) == tag(machine) && *other != machine;
            if let Some(other) = all[..at].iter().find(alike) {
                return Err(Unfit::Alike(other.clone(), machine.clone()));
            }
        }
        if !all.iter().any(|machine| machine == own) {
            return Err(Unfit::Unlisted(own.to_owned()));
        }
        let others = all.iter().filter(|machine| *machine != own);
        let others = others.map(|machine| (tag(machine), machine.clone())).collect();
        Ok(Some(Machines { own: tag(own), others }))
    }

    /// What ids of streams carry that begin here.
    pub fn tag(&self) -> u32 {
        self.own
    }

    /// The other machine that this stream is on, if it is.
    pub fn other(&self, stream: LogId) -> Option<&str> {
        let found = self.others.iter().find(|(tag, _)| *tag == stream.tag());
        found.map(|(_, machine)| machine.as_str())
    }
}

fn tag(machine: &str) -> u32 {
    let [a, b, c, ..] = digest_of(machine);
    u32::from_be_bytes([0, a, b, c]) >> 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn streams_are_where_their_ids_say() {
        let all = ids(&["148ed726c12358", "3d8d9dc9a05d48"]);
        let one = Machines::new(&all, Some("148ed726c12358")).expect("fit").expect("some");
        let two = Machines::new(&all, Some("3d8d9dc9a05d48")).expect("fit").expect("some");
        let stream = LogId(u128::MAX).tagged(one.tag());
        assert_eq!(stream.tag(), one.tag());
        assert_eq!((one.other(stream), two.other(stream)), (None, Some("148ed726c12358")));
        assert_eq!(stream.tagged(0xF_FFFF), LogId(u128::MAX), "nothing else is touched");
        let text = |id: LogId| id.to_string();
        assert_eq!(text(stream)[..10], text(LogId(u128::MAX))[..10]);
        assert_eq!(text(stream)[14..], text(LogId(u128::MAX))[14..]);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert_eq!(Machines::new(&[], None), Ok(None));
        assert_eq!(Machines::new(&ids(&["a"]), None), Err(Unfit::Nameless));
        assert_eq!(Machines::new(&ids(&["a"]), Some("b")), Err(Unfit::Unlisted("b".into())));
        assert_eq!(Machines::new(&ids(&["a;b"]), Some("a")), Err(Unfit::Malformed("a;b".into())));
        let many: Vec<String> = (0..8000).map(|n| format!("{n:x}")).collect();
        assert!(matches!(Machines::new(&many, Some("1")), Err(Unfit::Alike(..))));
    }
}
