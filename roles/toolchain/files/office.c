/* Lets LibreOffice run in a session, where no Unix socket can be made.
 *
 * It makes one by which a second instance would find the first, and tries for ever where that fails.
 * Where the kernel refuses, it is given a descriptor by which nobody finds anybody: bind(2) and
 * listen(2) do nothing, and accept(2) waits until the program itself connects, which is how it wakes
 * its own thread at the end. Every other call, and all of them outside a session, are the kernel's.
 */
#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int listener = -1;

static int is_ours(long result) { return result < 0 && errno == ENOTSOCK; }

int socket(int family, int type, int protocol)
{
	long made = syscall(SYS_socket, family, type, protocol);
	if (made < 0 && family == AF_UNIX && (errno == EPERM || errno == EACCES))
		return eventfd(0, EFD_CLOEXEC);
	return made;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	long done = syscall(SYS_bind, fd, address, length);
	return is_ours(done) ? 0 : done;
}

int listen(int fd, int backlog)
{
	long done = syscall(SYS_listen, fd, backlog);
	if (!is_ours(done))
		return done;
	listener = fd;
	return 0;
}

int accept(int fd, struct sockaddr *address, socklen_t *length)
{
	uint64_t count;
	long made = syscall(SYS_accept, fd, address, length);
	if (!is_ours(made))
		return made;
	if (read(fd, &count, sizeof count) == sizeof count)
		errno = ECONNABORTED;
	return -1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	const uint64_t one = 1;
	long done = syscall(SYS_connect, fd, address, length);
	if (!is_ours(done))
		return done;
	if (listener >= 0 && write(listener, &one, sizeof one) == sizeof one)
		return 0;
	errno = ECONNREFUSED;
	return -1;
}
