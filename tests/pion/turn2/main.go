// Package main is pion/turn v2 as a program, with pion/dtls v2.
package main

import (
	"crypto/x509"
	"net"

	"github.com/pion/dtls/v2"
	"github.com/pion/turn/v2"
	"relay.test/pion/talk"
)

type client struct {
	*turn.Client
	server string
}

// streams brings its own connection for Dial, whose own wants a server address this version never has.
type streams struct {
	talk.Streams
	dial func(network, address string) (net.Conn, error)
}

func (s streams) Dial(network, address string) (net.Conn, error) { return s.dial(network, address) }

func (c client) AllocateTCP() (talk.Streams, error) {
	made, err := c.Client.AllocateTCP()
	if err != nil {
		return nil, err
	}
	dial := func(network, address string) (net.Conn, error) {
		conn, err := net.Dial(network, c.server)
		if err != nil {
			return nil, err
		}
		return made.DialWithConn(conn, network, address)
	}
	return streams{made, dial}, nil
}

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
	return client{made, login.Server}, err
}

func handshake(network string, server *net.UDPAddr, serverName string, roots *x509.CertPool) (net.Conn, error) {
	config := &dtls.Config{ServerName: serverName, RootCAs: roots, InsecureSkipVerify: roots == nil}
	return dtls.Dial(network, server, config)
}
