//! An evaluator over the wire that says whatever a test wants, and what it is told.

use std::net::SocketAddr;

use proto::client::Security;
use proto::v1::evaluators_client::EvaluatorsClient;
use proto::v1::{self, order, report};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::house::{self, hello, within};

/// A stream of reports that nobody has checked, and the orders that come back.
pub(crate) struct Evaluator {
    out: mpsc::Sender<v1::Report>,
    orders: Streaming<v1::Order>,
}

impl Evaluator {
    pub(crate) async fn call(address: SocketAddr, first: report::Kind) -> Result<Self, Status> {
        let endpoint = Security::default().endpoint(&format!("http://{address}")).unwrap();
        let mut client = EvaluatorsClient::new(endpoint.connect().await.unwrap());
        let (out, reports) = mpsc::channel(64);
        out.send(v1::Report { kind: Some(first) }).await.unwrap();
        let orders = client.work(ReceiverStream::new(reports)).await?.into_inner();
        Ok(Self { out, orders })
    }

    /// Welcomed with the run's model.
    pub(crate) async fn join(address: SocketAddr) -> Self {
        Self::call(address, report::Kind::Hello(hello("m").into())).await.unwrap()
    }

    pub(crate) async fn say(&self, kind: report::Kind) {
        let _ = self.out.send(v1::Report { kind: Some(kind) }).await; // it may have been thrown out already
    }

    /// The next order that is no heartbeat; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<order::Kind> {
        loop {
            match within(self.orders.message()).await.ok()??.kind? {
                order::Kind::Heartbeat(_) => {}
                kind => return Some(kind),
            }
        }
    }

    /// The next lease; the run is prepared on the way.
    pub(crate) async fn lease(&mut self) -> v1::Lease {
        loop {
            match self.next().await.expect("no lease") {
                order::Kind::Prepare(prepare) => {
                    let ready = house::ready_for(prepare.run);
                    self.say(report::Kind::Ready(ready.into())).await;
                }
                order::Kind::Lease(lease) => return lease,
                _ => {}
            }
        }
    }

    /// Why it is sent away.
    pub(crate) async fn reason(&mut self) -> String {
        while let Some(kind) = self.next().await {
            if let order::Kind::Refused(refusal) = kind {
                return refusal.message;
            }
        }
        panic!("it ended without a reason");
    }
}
