/*
 * A Modbus server on libmodbus, for the tests: what it says and how is libmodbus' own work.
 *
 *     modbus_server tcp PORT
 *     modbus_server rtu DEVICE BAUD UNIT
 *
 * At first holding register N holds N, input register N holds 5000 + N, and every third coil and discrete input
 * is on. It says "ready" once it can be asked.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <modbus.h>

enum { MANY = 1000 };

static int give_up(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, modbus_strerror(errno));
	return 1;
}

static modbus_mapping_t *filled(void)
{
	modbus_mapping_t *m = modbus_mapping_new(MANY, MANY, MANY, MANY);
	for (int i = 0; m != NULL && i < MANY; i++) {
		m->tab_registers[i] = i;
		m->tab_input_registers[i] = 5000 + i;
		m->tab_bits[i] = i % 3 == 0;
		m->tab_input_bits[i] = i % 3 == 0;
	}
	return m;
}

/* answer serves requests until the line or the connection fails. */
static void answer(modbus_t *ctx, modbus_mapping_t *m)
{
	uint8_t query[MODBUS_MAX_ADU_LENGTH];
	for (;;) {
		int n = modbus_receive(ctx, query);
		if (n > 0)
			modbus_reply(ctx, query, n, m);
		else if (n < 0 && (errno == ECONNRESET || errno == EBADF || errno == EIO))
			return;
	}
}

static void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static int serve_tcp(int port, modbus_mapping_t *m)
{
	modbus_t *ctx = modbus_new_tcp("127.0.0.1", port);
	int listener = ctx == NULL ? -1 : modbus_tcp_listen(ctx, 1);
	if (listener < 0)
		return give_up("listen");
	for (ready(); modbus_tcp_accept(ctx, &listener) >= 0; modbus_close(ctx))
		answer(ctx, m);
	return give_up("accept");
}

static int serve_rtu(const char *device, int baud, int unit, modbus_mapping_t *m)
{
	modbus_t *ctx = modbus_new_rtu(device, baud, 'N', 8, 1);
	if (ctx == NULL || modbus_set_slave(ctx, unit) < 0 || modbus_connect(ctx) < 0)
		return give_up(device);
	ready();
	answer(ctx, m);
	return give_up(device);
}

int main(int argc, char **argv)
{
	modbus_mapping_t *m = filled();
	if (m == NULL)
		return give_up("registers");
	if (argc == 3 && strcmp(argv[1], "tcp") == 0)
		return serve_tcp(atoi(argv[2]), m);
	if (argc == 5 && strcmp(argv[1], "rtu") == 0)
		return serve_rtu(argv[2], atoi(argv[3]), atoi(argv[4]), m);
	fprintf(stderr, "usage: %s tcp PORT | rtu DEVICE BAUD UNIT\n", argv[0]);
	return 2;
}
