// node enrollments.js CONNECTION_STRING CERTIFICATE: makes, changes and removes enrolments with Microsoft's
// provisioning service SDK as it comes from npm, and prints what each step gave as one JSON object. Errors are
// shown by their class.
'use strict'

const { ProvisioningServiceClient } = require('azure-iot-provisioning-service')

const client = ProvisioningServiceClient.fromConnectionString(process.argv[2])
const said = {}

async function step (name, what) {
  try {
    const got = await what
    said[name] = got && got.responseBody !== undefined ? got.responseBody : got
  } catch (error) {
    said[name] = { error: error.constructor.name }
  }
  return said[name]
}

async function all (query) {
  const found = []
  while (query.hasMoreResults) found.push(...(await query.next(query.continuationToken)).responseBody)
  return found
}

async function run () {
  const symmetricKey = { type: 'symmetricKey', symmetricKey: { primaryKey: '', secondaryKey: '' } }
  const made = await step('create', client.createOrUpdateIndividualEnrollment({
    registrationId: 'boiler-7', deviceId: 'boiler', attestation: symmetricKey, provisioningStatus: 'enabled'
  }))
  await step('mechanism', client.getIndividualEnrollmentAttestationMechanism('boiler-7'))
  const first = made.etag
  made.provisioningStatus = 'disabled'
  await step('update', client.createOrUpdateIndividualEnrollment(made))
  made.etag = first
  await step('stale', client.createOrUpdateIndividualEnrollment(made))
  await step('get', client.getIndividualEnrollment('boiler-7'))
  await step('x509', client.createOrUpdateIndividualEnrollment({
    registrationId: 'sensor-1', attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: process.argv[3] } } } }
  }))
  await step('group', client.createOrUpdateEnrollmentGroup({ enrollmentGroupId: 'plant-7', attestation: symmetricKey }))
  await step('groupMechanism', client.getEnrollmentGroupAttestationMechanism('plant-7'))
  const everything = { query: 'SELECT * FROM enrollments' }
  await step('list', all(client.createIndividualEnrollmentQuery(everything, 1)))
  await step('groups', all(client.createEnrollmentGroupQuery(everything, 10)))
  await step('registrations', all(client.createEnrollmentGroupDeviceRegistrationStateQuery(everything, 'plant-7', 10)))
  await step('noRegistration', client.getDeviceRegistrationState('boiler-7'))
  await step('bad', client.createOrUpdateIndividualEnrollment({ registrationId: 'x', attestation: { type: 'tpm' } }))
  await step('remove', client.deleteIndividualEnrollment('boiler-7'))
  await step('gone', client.getIndividualEnrollment('boiler-7'))
  await step('removeGroup', client.deleteEnrollmentGroup('plant-7'))
}

run().then(() => console.log(JSON.stringify(said)))
