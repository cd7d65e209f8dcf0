/* mbedTLS as a DTLS client: ADDRESS PORT [SERVER-NAME]. Completes a handshake, sends a Binding request, and prints the
   type of what comes back. Debian packages the library without its sample programs; dtls_stacks.rs compiles this one. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/timing.h>
#include <stdio.h>

static const unsigned char REQUEST[] = {0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static int fail(const char *step, int error) {
  printf("%s: -0x%04x\n", step, (unsigned)-error);
  return 1;
}

int main(int count, char **arguments) {
  mbedtls_net_context socket;
  mbedtls_ssl_context ssl;
  mbedtls_ssl_config config;
  mbedtls_entropy_context entropy;
  mbedtls_ctr_drbg_context random;
  mbedtls_timing_delay_context timer;
  unsigned char answer[1500];
  int result;

  if (count < 3) return fail("usage", 0);
  mbedtls_net_init(&socket);
  mbedtls_ssl_init(&ssl);
  mbedtls_ssl_config_init(&config);
  mbedtls_entropy_init(&entropy);
  mbedtls_ctr_drbg_init(&random);
  result = mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0);
  if (result) return fail("seed", result);
  result = mbedtls_net_connect(&socket, arguments[1], arguments[2], MBEDTLS_NET_PROTO_UDP);
  if (result) return fail("connect", result);
  result = mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_DATAGRAM,
                                       MBEDTLS_SSL_PRESET_DEFAULT);
  if (result) return fail("defaults", result);
  /* The server under test made its own certificate. */
  mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_NONE);
  mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
  mbedtls_ssl_conf_read_timeout(&config, 10000);
  result = mbedtls_ssl_setup(&ssl, &config);
  if (result) return fail("setup", result);
  if (count > 3 && (result = mbedtls_ssl_set_hostname(&ssl, arguments[3]))) return fail("name", result);
  mbedtls_ssl_set_bio(&ssl, &socket, mbedtls_net_send, mbedtls_net_recv, mbedtls_net_recv_timeout);
  mbedtls_ssl_set_timer_cb(&ssl, &timer, mbedtls_timing_set_delay, mbedtls_timing_get_delay);
  result = mbedtls_ssl_handshake(&ssl);
  if (result) return fail("handshake", result);
  result = mbedtls_ssl_write(&ssl, REQUEST, sizeof REQUEST);
  if (result < 0) return fail("write", result);
  result = mbedtls_ssl_read(&ssl, answer, sizeof answer);
  if (result < 2) return fail("read", result);
  printf("answer %02x%02x\n", answer[0], answer[1]);
  return 0;
}
