//! How an actor posts and receives, with every step written down.

use std::time::Duration;

use ringport::{MessagePort, OwnedMessageEvent, PostError, RecvError, TransferError};
use rkyv::rancor::Error;

use super::actor::{Actor, Card, Holding, Sabotage};
use super::log::Event;
use super::parcel::{Parcel, Passenger, PortId, Stay, peer};
use crate::common;

impl Actor {
    /// Posts a parcel, with these ports. Whether it was posted.
    pub fn post(&mut self, from: PortId, along: &[PortId], last: bool) -> bool {
        if self.find(from).is_none() {
            return false;
        }
        let message = self.name();
        let (cards, ports): (Vec<Card>, Vec<MessagePort>) = along
            .iter()
            .filter_map(|port| self.take(*port))
            .map(|holding| (holding.card, holding.port))
            .unzip();
        let form = self.dice.below(6);
        let length = self.dice.below(1200);
        let Some(carrier) = self.find(from) else {
            return false;
        };
        let passengers = cards.iter().map(|card| Passenger {
            stay: Stay {
                hop: card.stay.hop + 1,
                ..card.stay
            },
            next: card.next,
        });
        let parcel = Parcel {
            message,
            from,
            number: carrier.card.next,
            last,
            passengers: passengers.collect(),
            filler: common::sample_of(message, 8 + length),
            checksum: 0,
        };
        let parcel = parcel.sealed();
        self.log.write(&Event::Posting {
            message,
            from: carrier.card.stay,
            number: parcel.number,
            last,
            passengers: parcel.passengers.iter().map(|p| p.stay).collect(),
        });
        let answer = send(&carrier.port, &parcel, ports, form);
        let closed = match &answer {
            Ok(()) => {
                self.log.write(&Event::Posted { message });
                None
            }
            Err((PostError::Closed(reason), _)) => Some((*reason).into()),
            Err(_) => None,
        };
        let own_peer = along.contains(&peer(from));
        match answer {
            Ok(()) => {
                if own_peer {
                    self.fault(format!("port {from} took its own peer along"));
                }
                if let Some(card) = self.card(from) {
                    card.next += 1;
                    card.said_last |= last;
                }
                true
            }
            Err((error, ports)) => {
                self.log.write(&Event::Refused { message, closed });
                let expected = match error {
                    PostError::OwnPeer { index } => along.get(index) == Some(&peer(from)),
                    PostError::Full { .. }
                    | PostError::TransfersFull { .. }
                    | PostError::TooManyInFlight { .. }
                    | PostError::Closed(_) => !own_peer,
                    _ => false,
                };
                if !expected || ports.len() != cards.len() {
                    let (back, gone) = (ports.len(), cards.len());
                    self.fault(format!(
                        "{error:?} at port {from}, {back} of {gone} ports back"
                    ));
                }
                let back = ports.into_iter().zip(cards);
                self.holdings
                    .extend(back.map(|(port, card)| Holding { card, port }));
                false
            }
        }
    }

    /// Posts the last message on a port, unless that was done; whoever has heard the other's is finished.
    pub fn say_last(&mut self, port: PortId) -> bool {
        let said = match self.card(port) {
            Some(card) if card.said_last => false,
            Some(_) => self.post(port, &[], true),
            None => false,
        };
        let done = self
            .card(port)
            .is_some_and(|card| card.said_last && card.heard_last);
        if done {
            if let Some(holding) = self.take(port) {
                let stay = holding.card.stay;
                self.log.write(&Event::Finished { stay });
            }
        }
        said || done
    }

    /// Receives one message, if there is one within the time. Whether there was, or the end.
    pub fn receive(&mut self, at: PortId, timeout: Option<Duration>) -> bool {
        let Some(holding) = self.find(at) else {
            return false;
        };
        let stay = holding.card.stay;
        if holding.card.said_last && holding.card.heard_last {
            // All has been said: that the peer closes now is no news.
            return false;
        }
        let answer = match timeout {
            None => holding.port.try_recv(),
            Some(timeout) => holding.port.recv_timeout(timeout),
        };
        match answer.map(|event| event.map(|event| event.into_owned())) {
            Ok(Some(event)) => {
                self.received += 1;
                self.accept(at, event);
                true
            }
            Ok(None) => false,
            Err(RecvError::Closed(reason)) => {
                let reason = reason.into();
                self.log.write(&Event::Ended { stay, reason });
                let ended = self.take(at);
                // Without the coordinator nobody would say when it is over.
                self.finishing |= self.me != 0 && ended.is_some_and(|ended| ended.card.fixed);
                true
            }
            Err(error) => {
                self.fault(format!("{error:?} from {stay:?}"));
                false
            }
        }
    }

    /// Takes a message in, as it came or as the sabotage wants it.
    fn accept(&mut self, at: PortId, event: OwnedMessageEvent) {
        if self.received > 10 {
            match self.sabotage {
                // Where a loss is certain to be noticed: on other ports a close may hide it.
                Sabotage::LoseMessage if self.find(at).is_some_and(|one| one.card.fixed) => {
                    self.sabotage = Sabotage::None;
                    return;
                }
                Sabotage::SwapMessages => {
                    let next = self.find(at).map(|holding| holding.port.try_recv());
                    let next = next.and_then(Result::ok).flatten();
                    if let Some(next) = next.map(|next| next.into_owned()) {
                        self.sabotage = Sabotage::None;
                        self.unpack(at, next);
                    }
                }
                _ => {}
            }
        }
        self.unpack(at, event);
    }

    fn unpack(&mut self, at: PortId, event: OwnedMessageEvent) {
        let Some(stay) = self.card(at).map(|card| card.stay) else {
            return;
        };
        let parcel = event.data::<Parcel>().map(|archived| {
            let parcel = rkyv::deserialize::<Parcel, Error>(archived);
            parcel.unwrap()
        });
        let parcel = match parcel {
            Ok(parcel) if parcel.is_sound() => parcel,
            Ok(parcel) => return self.fault(format!("wrong sum at {stay:?}: {parcel:?}")),
            Err(error) => return self.fault(format!("no parcel at {stay:?}: {error:?}")),
        };
        let stays: Vec<Stay> = parcel.passengers.iter().map(|p| p.stay).collect();
        self.log.write(&Event::Received {
            at: stay,
            message: parcel.message,
            from: parcel.from,
            number: parcel.number,
            passengers: stays.clone(),
            ports: event.port_count(),
        });
        if parcel.last {
            if let Some(card) = self.card(at) {
                card.heard_last = true;
                self.finishing |= card.fixed && self.me != 0;
            }
        }
        if !self.finishing && self.dice.one_in(40) {
            // Dropped with the event, without having been looked at.
            stays
                .iter()
                .for_each(|stay| self.log.write(&Event::Closing { stay: *stay }));
            drop(event);
            stays
                .iter()
                .for_each(|stay| self.log.write(&Event::Closed { stay: *stay }));
            return;
        }
        for (port, passenger) in event.take_ports().into_iter().zip(&parcel.passengers) {
            if self.sabotage == Sabotage::LosePort {
                self.sabotage = Sabotage::None;
                std::mem::forget(port);
                continue;
            }
            self.hold(port, passenger.stay, passenger.next, false);
        }
    }
}

/// Posts in one of six forms. None waits for long: two actors could wait for each other.
fn send(
    port: &MessagePort,
    parcel: &Parcel,
    ports: Vec<MessagePort>,
    form: usize,
) -> Result<(), (PostError, Vec<MessagePort>)> {
    let briefly = Duration::from_millis(1);
    let bytes = || rkyv::to_bytes::<Error>(parcel).unwrap();
    let answer = match form {
        0 if ports.is_empty() => return port.try_post_message(parcel).map_err(alone),
        1 if ports.is_empty() => {
            let answer = port.post_bytes_timeout(&bytes(), briefly);
            return answer.map_err(alone);
        }
        0 | 1 => port.try_post_message_with(parcel, ports),
        2 => port.post_message_with_timeout(parcel, ports, briefly),
        3 => port.post_bytes_with_timeout(&bytes(), ports, briefly),
        _ => port.try_post_bytes_with(&bytes(), ports),
    };
    answer.map_err(TransferError::into_parts)
}

fn alone(error: PostError) -> (PostError, Vec<MessagePort>) {
    (error, Vec::new())
}
