"""The servers that the session provides are real, and what a test is lent of them is its own."""

from __future__ import annotations

import aio_pika
import asyncpg
import pytest

from tests.support.providers import plain_url
from tests.support.servers import Topology

pytestmark = pytest.mark.servers


async def test_a_message_travels_through_a_quorum_queue_of_the_lent_virtual_host(fresh_vhost: Topology) -> None:
    connection = await aio_pika.connect(fresh_vhost.url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(
            f"{fresh_vhost.prefix}queue", durable=True, arguments={"x-queue-type": "quorum"}
        )
        await channel.default_exchange.publish(aio_pika.Message(b"seat"), queue.name)
        message = await queue.get(timeout=5)
        assert message is not None
        assert message.body == b"seat"
        await message.ack()
        await queue.delete(if_unused=False, if_empty=False)


async def test_a_lent_database_is_empty_and_gone_afterwards(postgres_url: str, fresh_database: str) -> None:
    own = await asyncpg.connect(plain_url(fresh_database))
    try:
        assert await own.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
        await own.execute("CREATE TABLE seat (id int)")
        name = await own.fetchval("SELECT current_database()")
    finally:
        await own.close()
    admin = await asyncpg.connect(plain_url(postgres_url))
    try:
        assert name not in (await admin.fetchval("SELECT current_database()"), "postgres")
    finally:
        await admin.close()
