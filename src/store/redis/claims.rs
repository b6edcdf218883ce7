//! What nodes agree on beside logs: claims, clocks and messages. Redis's clock is everybody's.
//!
//! All claims lie in one slot of a cluster, since they are listed by any prefix; clocks and topics are spread.

use std::time::Duration;

use bytes::Bytes;
use redis::{Value, cmd};
use tokio::sync::broadcast;

use super::encoding;
use super::{Error, Node};
use crate::log::LogId;
use crate::store::Claim;

impl Node {
    /// The claims' values, their order, and when each ends.
    fn claims(&self) -> [String; 3] {
        ["{claims}:values", "{claims}:order", "{claims}:ends"].map(|name| self.key(name))
    }

    pub async fn claim(&self, key: &str, value: &str, ttl: Duration) -> Result<Claim, Error> {
        let [values, order, ends] = self.claims();
        let ttl = ttl.as_millis().to_string();
        let args: [&[u8]; 3] = [key.as_bytes(), value.as_bytes(), ttl.as_bytes()];
        let answer = self.ask(&self.scripts.claim, &[&values, &order, &ends], &args).await?;
        let mut answer = encoding::array(answer)?.into_iter().skip(1);
        Ok(answer.next().map_or(Ok(Claim::Won), |held| encoding::text(held).map(Claim::Held))?)
    }

    pub async fn claimed(&self, key: &str) -> Result<Option<String>, Error> {
        let [values, _, ends] = self.claims();
        match self.ask(&self.scripts.claimed, &[&values, &ends], &[key.as_bytes()]).await? {
            Value::Nil => Ok(None),
            value => Ok(Some(encoding::text(value)?)),
        }
    }

    pub async fn release(&self, key: &str, value: &str) -> Result<(), Error> {
        let [values, order, ends] = self.claims();
        let args: [&[u8]; 2] = [key.as_bytes(), value.as_bytes()];
        self.ask(&self.scripts.release, &[&values, &order, &ends], &args).await.map(drop)
    }

    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let [values, order, ends] = self.claims();
        let answer = self.ask(&self.scripts.list, &[&values, &order, &ends], &[prefix.as_bytes()]).await?;
        let mut texts = encoding::array(answer)?.into_iter().map(encoding::text);
        let mut found = Vec::new();
        while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
            found.push((key?, value?));
        }
        Ok(found)
    }

    /// Not tried again: it may have run, and a limit would be charged twice.
    pub async fn advance(&self, key: &str, by_us: i64) -> Result<Duration, Error> {
        let clock = self.key(&format!("clock:{key}"));
        let by = by_us.to_string();
        let answer = self.commands.run_script(&self.scripts.advance, &[&clock], &[by.as_bytes()]).await?;
        Ok(Duration::from_micros(u64::try_from(encoding::integer(&answer)?).unwrap_or(0)))
    }

    fn topic(&self, topic: &str) -> String {
        self.key(&format!("topic:{topic}"))
    }

    /// Not tried again: it may have been heard.
    pub async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Error> {
        self.commands.call(cmd("SPUBLISH").arg(self.topic(topic)).arg(message)).await.map(drop)?;
        Ok(())
    }

    pub async fn subscribe(&self, topic: &str) -> Result<broadcast::Receiver<Bytes>, Error> {
        Ok(self.push.follow_topic(&self.topic(topic)).await?)
    }

    /// Other nodes may hold a copy of a closed log, on whose channel they listen no more.
    pub async fn tell_forgotten(&self, log: LogId) -> Result<(), Error> {
        let channel = self.forgotten_channel();
        self.insist_on(self.patience(), cmd("SPUBLISH").arg(channel).arg(log.to_string())).await.map(drop)
    }
}
