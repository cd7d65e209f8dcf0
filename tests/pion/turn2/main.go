// Package main is pion/turn v2 as a program, with pion/dtls v2.
package main

import (
	"crypto/x509"
	"net"

	"github.com/pion/dtls/v2"
	"github.com/pion/turn/v2"
	"relay.test/pion/talk"
)

type client struct{ *turn.Client }

func (c client) AllocateTCP() (talk.Streams, error) { return c.Client.AllocateTCP() }

func main() {
	talk.Run(talk.Stack{DTLS: handshake, Datagrams: datagrams, New: open})
}

func datagrams(conn net.Conn) net.PacketConn { return turn.NewSTUNConn(conn) }

func open(login talk.Login, conn net.PacketConn) (talk.Client, error) {
	made, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: login.Server,
		TURNServerAddr: login.Server,
		Username:       login.Username,
		Password:       login.Password,
		Realm:          login.Realm,
		Conn:           conn,
	})
	return client{made}, err
}

func handshake(network string, server *net.UDPAddr, serverName string, roots *x509.CertPool) (net.Conn, error) {
	config := &dtls.Config{ServerName: serverName, RootCAs: roots, InsecureSkipVerify: roots == nil}
	return dtls.Dial(network, server, config)
}
